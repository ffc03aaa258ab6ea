"""Detach a data disk from a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.diskspecs import DetachDiskRequest
from innkeeper.domain.lifecycle import Verb
from tasks.disks import let_go, remove_disk, unplug_disk
from tasks.operation import operation
from tasks.step import together


@flow(name="detach-disk")
async def detach_disk(
    request: DetachDiskRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Take a data disk from a server, live where it runs, and keep it or delete it.

    Args:
        request: the disk, and whether it is kept.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.DETACH_DISK, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, unplug_disk, let_go, remove_disk)
