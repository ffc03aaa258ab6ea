"""Data disks: made, plugged in, taken out, kept or deleted; live where a guest runs."""

from uuid import UUID

from innkeeper.domain.diskspecs import DetachDiskRequest
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolAbsent, SubstrateInactive
from innkeeper.services import disks
from innkeeper.services.blueprint import Blueprint
from tasks.files import DiskInUse
from tasks.guest import define_with, disk_spec, runs
from tasks.guest_disks import uses
from tasks.step import step

WAITS = "to be deleted by reconcile, when its pool is at work again"
UNPLUG_SECONDS = 20.0
"""How long a guest may take to let go of a disk; one that is up does it in a second."""


def _new(b: Blueprint) -> bool:
    return bool(b.request["new"])


@step("make-disk")
def make_disk(b: Blueprint) -> str:
    """Create the empty volume; of a kept disk see that it is there. Its row was there before."""
    connection, disk = connect(b.host.uri), b.data.one
    if _new(b):
        storage.ensure_volume(connection, disk.pool, disk.volume, disk.size_bytes, fmt=disk.format)
        return f"{disk.volume} of {disk.size_gib} GiB"
    storage.volume_path(connection, disk.pool, disk.volume)
    return f"{disk.volume} is there"


@make_disk.undone_by
def unmake_disk(b: Blueprint) -> str:
    """Delete what was made; a disk that was kept stays."""
    disk = b.data.subject
    if disk is None or not _new(b):
        return "kept"
    if disk.serial in _plugged(b):
        raise DiskInUse(
            f"{b.name} still has disk '{disk.name}': detach it (`innkeeper disk detach`)."
        )
    storage.delete_volume(connect(b.host.uri), disk.pool, disk.volume)
    return f"{disk.volume} deleted"


def _plugged(b: Blueprint) -> set[str]:
    """Return the disks that the guest has now or would have at its next start."""
    connection = connect(b.host.uri)
    there = adapter.serials(connection, b.server_id, defined=True)
    return there if b.host.simulated else there | adapter.serials(connection, b.server_id)


@step("plug-disk")
def plug_disk(b: Blueprint) -> str:
    """Define the domain with the disk, and plug it into a guest that runs."""
    define_with(b, b.data.with_subject())
    return _plug(b)


def _plug(b: Blueprint) -> str:
    disk = b.data.one
    if not runs(b):
        return f"{disk.target}, from its next start"
    adapter.plug(connect(b.host.uri), b.server_id, disk_spec(b, disk))
    return f"{disk.target}, live"


@plug_disk.undone_by
def unplug_again(b: Blueprint) -> str:
    """Take the disk out again, wherever it is."""
    if runs(b):
        adapter.unplug(connect(b.host.uri), b.server_id, b.data.one.serial, UNPLUG_SECONDS)
    define_with(b, b.data.without_subject())
    return "unplugged"


@step("adopt-attachment")
def adopt_attachment(b: Blueprint) -> str:
    """Note that the server has the disk."""
    disks.adopt(b.claim)
    return disks.BY_ID + b.data.one.serial


@adopt_attachment.undone_by
def forget_attachment(b: Blueprint) -> str:
    """Note that the server has not got it after all."""
    disks.adopt(b.claim, attached=False)
    return "not attached"


def _wish(b: Blueprint) -> DetachDiskRequest:
    fields = DetachDiskRequest.model_fields
    return DetachDiskRequest.model_validate({name: b.request[name] for name in fields})


@step("unplug-disk")
def unplug_disk(b: Blueprint) -> str:
    """Have a running guest let go of the disk, then define the domain without it."""
    if b.committed:
        return "done before"
    disk, said = b.data.one, "the guest is off"
    if runs(b):
        connection = connect(b.host.uri)
        said = "the guest was not asked whether it uses it"
        if disk.serial in adapter.serials(connection, b.server_id) and not _wish(b).force:
            said = _require_unused(b)
        adapter.unplug(connection, b.server_id, disk.serial, UNPLUG_SECONDS)
    define_with(b, b.data.without_subject())
    return f"unplugged, {said}"


def _require_unused(b: Blueprint) -> str:
    found = uses(b, b.data.one.serial)
    if found is None:
        return "the guest did not say whether it uses it"
    if found:
        raise DiskInUse(
            f"The guest of {b.name} uses disk '{b.data.one.name}' ({', '.join(found)}): unmount it "
            "there first, or pass force (--force) and lose what is not written yet."
        )
    return "the guest does not use it"


@unplug_disk.undone_by
def plug_back(b: Blueprint) -> str:
    """Give the server its disk back."""
    define_with(b, b.data.with_subject())
    return _plug(b)


@step("let-go")
def let_go(b: Blueprint) -> str:
    """Note that the disk is no server's: no way back from here."""
    keep = _wish(b).keep
    disks.let_go(b.claim, keep=keep)
    return "kept" if keep else "to be deleted"


def _erase(b: Blueprint, disk_id: UUID) -> bool:
    """Delete a disk, unless its pool is not at work: that is its operator's, and not started.

    A folder on which nothing is mounted would look as if the disk were gone.
    """
    try:
        disks.erase(disk_id)
    except (SubstrateInactive, PoolAbsent) as why:
        disks.put_off(b.claim, disk_id, str(why))
        return False
    return True


@step("remove-disk")
def remove_disk(b: Blueprint) -> str:
    """Delete the disk, if it is not to be kept."""
    if _wish(b).keep or b.data.subject is None:
        return "kept" if b.data.subject else "gone"
    return f"{b.data.one.volume} {'deleted' if _erase(b, b.data.one.id) else WAITS}"


@step("part-disks")
def part_disks(b: Blueprint) -> str:
    """Delete the data disks of a server that is deleted, but those that are to stay."""
    going = disks.part(b.claim)
    gone = sum(_erase(b, disk_id) for disk_id in going)
    waits = f", {len(going) - gone} {WAITS}" if gone < len(going) else ""
    return f"{gone} deleted, {len(b.data.all) - len(going)} kept{waits}"
