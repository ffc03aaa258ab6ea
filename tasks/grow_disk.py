"""Growing a data disk: live where its guest runs. It never shrinks again."""

from innkeeper.domain.diskspecs import GrowDiskRequest
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import disks
from innkeeper.services.blueprint import Blueprint
from tasks.guest import runs
from tasks.guest_disks import expand
from tasks.step import step


@step("grow-data-disk")
def grow_data_disk(b: Blueprint) -> str:
    """Grow the disk's volume; a guest that runs sees it at once."""
    connection, disk = connect(b.host.uri), b.data.one
    if runs(b):
        adapter.grow(connection, b.server_id, disk.serial, disk.size_bytes)
    else:
        storage.grow(connection, disk.pool, disk.volume, disk.size_bytes)
    return f"{disk.size_gib} GiB"


@grow_data_disk.undone_by
def keep_grown_data_disk(b: Blueprint) -> str:
    """A disk does not shrink: if it has grown, that is its size from now on."""
    disk = b.data.one
    there = storage.capacity(connect(b.host.uri), disk.pool, disk.volume) >> 30
    if there <= b.request["disk_before"]["size_gib"]:
        return "it has not grown"
    disks.keep_size(b.claim, there)
    return f"it has {there} GiB and keeps them"


@step("expand-data-disk")
def expand_data_disk(b: Blueprint) -> str:
    """Have the guest grow the file system that lies directly on the disk."""
    fields = GrowDiskRequest.model_fields
    wish = GrowDiskRequest.model_validate({name: b.request[name] for name in fields})
    if wish.expand == "offline" or not runs(b):
        return "the file system stays as it is: grow it in the guest"
    return expand(b, b.data.one.serial)
