"""Attach a data disk to a server."""

from uuid import UUID

from prefect import flow

from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Verb
from tasks.disks import adopt_attachment, make_disk, plug_disk
from tasks.operation import operation
from tasks.step import together


@flow(name="attach-disk")
async def attach_disk(
    request: AttachDiskRequest | None = None,
    server: str | None = None,
    operation_id: UUID | None = None,
    project: str = "default",
) -> None:
    """Give a server a data disk, a new one or one that was kept; live where it runs.

    Args:
        request: the disk: with a size a new one, else one that was kept.
        server: name or id of the server; fill this in when starting from the Prefect UI.
        operation_id: set by API and CLI, whose request is accepted already; leave empty here.
        project: name of the project that owns the server.
    """
    async with operation(
        Verb.ATTACH_DISK, request, operation_id, server=server, project=project
    ) as claim:
        await together(claim, make_disk, plug_disk, adopt_attachment)
