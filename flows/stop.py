"""Stop a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import StopRequest
from tasks.guest import stop_domain
from tasks.operation import operation


@flow(name="stop-server")
async def stop_server(
    request: StopRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Stop a server: the guest agent is asked, then ACPI, then the plug is pulled.

    Args:
        request: stop options; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(Verb.STOP, request, operation_id, server=server, project=project) as claim:
        await stop_domain(claim)
