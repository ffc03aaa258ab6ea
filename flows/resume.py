"""Resume a suspended server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from tasks.guest_login import wait_answer
from tasks.operation import operation
from tasks.suspension import resume_guest, set_clock


@flow(name="resume-server")
async def resume_server(
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Wake a suspended server where it stood, with its clock set.

    Args:
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(Verb.RESUME, None, operation_id, server=server, project=project) as claim:
        await resume_guest(claim)
        await set_clock(claim)
        await wait_answer(claim)
