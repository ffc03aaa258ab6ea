"""Suspend a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import SuspendRequest
from tasks.operation import operation
from tasks.suspension import suspend_guest


@flow(name="suspend-server")
async def suspend_server(
    request: SuspendRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Let a server rest with its memory kept; its address, forward and capacity stay its own.

    Args:
        request: suspend options; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.SUSPEND, request, operation_id, server=server, project=project
    ) as claim:
        await suspend_guest(claim)
