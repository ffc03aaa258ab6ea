"""Take a snapshot of a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import SnapshotRequest
from tasks.operation import operation
from tasks.snapshot import adopt_snapshot, capture_state, create_layer
from tasks.step import together


@flow(name="snapshot-server")
async def snapshot_server(
    request: SnapshotRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Freeze the state of a server, running, stopped or suspended; it goes on where it is.

    Args:
        request: name, memory, quiescing and retention; the defaults suit most.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.SNAPSHOT, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, create_layer, capture_state, adopt_snapshot)
