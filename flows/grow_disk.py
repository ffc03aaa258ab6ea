"""Grow a data disk of a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.diskspecs import GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from tasks.grow_disk import expand_data_disk, grow_data_disk
from tasks.operation import operation
from tasks.step import together


@flow(name="grow-disk")
async def grow_disk(
    request: GrowDiskRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Give a server's data disk more room, live where it runs, with its file system.

    Args:
        request: the disk and its new size.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.GROW_DISK, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, grow_data_disk, expand_data_disk)
