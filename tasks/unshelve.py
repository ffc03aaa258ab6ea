"""Back from the shelf: the disk is put on a host and proven there before anything starts on it."""

from innkeeper.domain.naming import POOL
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import TransientError
from innkeeper.host import checksum
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, haul, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.images import shelf
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal, shelves
from innkeeper.services.blueprint import Blueprint, ShelfBlueprint
from tasks.shelf import TAG, Told
from tasks.step import step


class DiskArrivedDamaged(TransientError):
    """What is on the host is not what was sent."""


def _root(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, b.root_volume)]


@step("unshelve-disk", makes=_root, tags=[TAG])
def unshelve_disk(b: Blueprint) -> str:
    """Put the disk on the host and compare checksums there; one that was proven is left alone."""
    connection = connect(b.host.uri)
    if b.committed or (
        b.step_data.get("proven") and b.root_volume in storage.volume_names(connection, POOL)
    ):
        return "it is there"  # perhaps the guest runs on it already
    if b.shelf is None or b.shelf.sha256 is None:
        raise ShelfFileDamaged(f"{b.name} has no whole file on the shelf: restore a backup of it.")
    # What a run that lost this host left here must not write to the file that comes now.
    guest.destroy(connection, b.server_id)
    guest.undefine(connection, b.server_id)
    if b.host.simulated:
        backing = storage.volume_path(connection, POOL, b.shelf.base) if b.shelf.base else None
        shelf.require_whole(b.shelf.name, b.shelf.size_bytes)
        storage.ensure_volume(connection, POOL, b.root_volume, b.disk_bytes, backing_path=backing)
    else:
        _send(b, b.shelf)
    journal.note(b.claim, "unshelve-disk", proven=True)
    return f"{b.root_volume}, SHA-256 {b.shelf.sha256}"


def _send(b: Blueprint, kept: ShelfBlueprint) -> None:
    connection, channel = connect(b.host.uri), open_channel(b.host.channel)
    source = shelf.require_whole(kept.name, kept.size_bytes)
    tell = Told(b, "unshelve-disk").bytes("copying to the host", kept.size_bytes, 0.9)
    sent = haul.send(connection, POOL, b.root_volume, source, tell=tell)
    if sent != kept.sha256:
        raise ShelfFileDamaged(
            f"{source} is not what was put on the shelf (SHA-256 {sent}, not {kept.sha256}): "
            "bring it back from a backup."
        )
    path = storage.volume_path(connection, POOL, b.root_volume)
    checksum.settle(channel, path, kept.size_bytes)  # before the shelf's copy may go
    if checksum.sha256(channel, path, kept.size_bytes) != kept.sha256:
        raise DiskArrivedDamaged(f"{path} on {b.host.name} is not what was sent: sending it again.")
    if kept.base and kept.base == b.disk_image.volume:
        below = storage.volume_path(connection, POOL, kept.base)
        length = storage.allocated(connection, POOL, [kept.base])[kept.base]
        if checksum.sha256(channel, below, length) != b.disk_image.sha256:
            raise ShelfFileDamaged(
                f"The image {below} on {b.host.name} is not {b.disk_image.name}: unshelve to "
                "another host, and have that one looked after."
            )


@unshelve_disk.undone_by
def erase_disk(b: Blueprint) -> str:
    """Delete what was put on the host; the shelf has it still."""
    storage.delete_volume(connect(b.host.uri), POOL, b.root_volume)
    return f"{b.root_volume} deleted"


@step("adopt-disk")
def adopt_disk(b: Blueprint) -> str:
    """Let the disk on the host be the server's: there is no way back from here."""
    if not b.committed:
        journal.commit(b.claim)
    return b.root_volume


@step("clear-shelf")
def clear_shelf(b: Blueprint) -> str:
    """Take the file from the shelf."""
    return f"{shelves.clear(b.claim) or 'nothing'} removed from the shelf"
