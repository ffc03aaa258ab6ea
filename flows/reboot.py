"""Reboot a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import RebootRequest
from tasks.guest import reboot_domain
from tasks.guest_login import wait_answer
from tasks.operation import operation


@flow(name="reboot-server")
async def reboot_server(
    request: RebootRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Reboot a server, softly or hard, and wait for its answer.

    Args:
        request: reboot options; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.REBOOT, request, operation_id, server=server, project=project
    ) as claim:
        await reboot_domain(claim)
        await wait_answer(claim)
