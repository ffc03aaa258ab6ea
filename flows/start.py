"""Start a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from tasks.guest import start_domain
from tasks.guest_login import wait_answer
from tasks.operation import operation


@flow(name="start-server")
async def start_server(
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Start a stopped server and wait for its answer.

    Args:
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(Verb.START, None, operation_id, server=server, project=project) as claim:
        await start_domain(claim)
        await wait_answer(claim)
