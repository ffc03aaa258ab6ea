"""Delete a snapshot."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import DeleteSnapshotRequest
from tasks.merge import forget_snapshot, merge_snapshot, remove_layer
from tasks.operation import operation
from tasks.step import together


@flow(name="delete-snapshot")
async def delete_snapshot(
    request: DeleteSnapshotRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Delete a snapshot; the server and its other snapshots stay as they are.

    Args:
        request: the snapshot to delete, by name or id.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.DELETE_SNAPSHOT, request, operation_id, server=server, project=project
    ) as claim:
        await merge_snapshot(claim)
        await together(claim, forget_snapshot, remove_layer)
