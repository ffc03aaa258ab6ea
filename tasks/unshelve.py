"""Back from the shelf: each file is put on a host and proven, before anything starts on it."""

from collections.abc import Callable, Collection

from innkeeper.domain.naming import POOL
from innkeeper.host import checksum
from innkeeper.hypervisor import guest, haul, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.images import shelf
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal, shelves
from innkeeper.services.blueprint import Blueprint, ShelfBlueprint
from tasks import files
from tasks.files import (
    data_copies,
    data_volumes,
    require_arrived,
    require_image,
    root_file,
)
from tasks.guest import require_given
from tasks.merge import all_files
from tasks.shelf import TAG, Told, frozen_files
from tasks.step import step

SNAPSHOTS = "unshelve-snapshots"
DISK = "unshelve-disk"
DATA = "unshelve-data-disks"
ARRIVED = "arrived"
"""Noted in those steps: the checksum of each file that is whole on the host."""


@step(SNAPSHOTS, makes=all_files, tags=[TAG])
def unshelve_snapshots(b: Blueprint) -> str:
    """Put the frozen files and memories of snapshots on the host, each after what it leans on.

    Before anything is sent all files have to be on the shelf, and the host has to have room, and
    what is special about the guest's CPU and memory.
    """
    if b.committed:
        return "they are there"
    require_given(b)
    files.require_apart(b, SNAPSHOTS)
    wanted = (*frozen_files(b), b.root_volume, *data_volumes(b))
    coming = {volume: _kept(b, volume).size_bytes for volume in wanted}
    if not b.host.simulated:
        here = files.there(b, wanted)
        sizes = {name: size for name, size in coming.items() if name not in here}
        files.require_room(b, sizes, "at least")
    return _bring_back(b, SNAPSHOTS, frozen_files(b))


@unshelve_snapshots.undone_by
def erase_snapshots(b: Blueprint) -> str:
    """Delete what was put on the host; the shelf has it still."""
    return _erase(b, frozen_files(b))


@step(DISK, makes=root_file, tags=[TAG])
def unshelve_disk(b: Blueprint) -> str:
    """Put the disk on the host and compare checksums there; one that was proven is left alone."""
    if b.committed or not _missing(b, [b.root_volume]):
        return "it is there"  # perhaps the guest runs on it already
    # What a run that lost this host left here must not write to the file that comes now.
    guest.destroy(connect(b.host.uri), b.server_id)
    guest.undefine(connect(b.host.uri), b.server_id)
    said = _bring_back(b, DISK, [b.root_volume])
    if not b.host.simulated and b.disk_image.volume in {kept.base for kept in b.shelf.values()}:
        require_image(b, "unshelve to another host")
    return said


@unshelve_disk.undone_by
def erase_disk(b: Blueprint) -> str:
    """Delete what was put on the host; the shelf has it still."""
    return _erase(b, [b.root_volume])


@step(DATA, makes=data_copies, tags=[TAG])
def unshelve_data_disks(b: Blueprint) -> str:
    """Put the data disks on the host and compare checksums there."""
    return "they are there" if b.committed else _bring_back(b, DATA, data_volumes(b))


@unshelve_data_disks.undone_by
def erase_data_disks(b: Blueprint) -> str:
    """Delete what was put on the host; the shelf has it still."""
    return files.erase_copies(b, SNAPSHOTS)


def _erase(b: Blueprint, volumes: Collection[str]) -> str:
    for name in reversed(list(volumes)):
        files.delete(b, name)
    return f"{len(volumes)} files deleted"


def _kept(b: Blueprint, volume: str) -> ShelfBlueprint:
    """Return what the shelf has of a volume.

    Raises:
        ShelfFileDamaged: nothing, or not all of it.
    """
    kept = b.shelf.get(volume)
    if kept is None or kept.sha256 is None:
        raise ShelfFileDamaged(
            f"{b.name} has no whole file of {volume} on the shelf: restore a backup of it."
        )
    shelf.require_whole(kept.name, kept.size_bytes)
    return kept


def _missing(b: Blueprint, volumes: Collection[str]) -> list[str]:
    """Return those that are not on the host, or not proven there."""
    whole = b.step_data.get(ARRIVED, {}).keys() & files.there(b, volumes)
    return [volume for volume in volumes if volume not in whole]


def _bring_back(b: Blueprint, step_name: str, volumes: Collection[str]) -> str:
    """Put volumes on the host, in this order, each noted when it is proven."""
    arrived, missing = dict(b.step_data.get(ARRIVED, {})), _missing(b, volumes)
    kept_files = {volume: _kept(b, volume) for volume in missing}
    told, passed = Told(b, step_name), 0
    total = max(sum(kept.size_bytes for kept in kept_files.values()), 1)
    for volume, kept in kept_files.items():
        tell = told.part(passed / total, kept.size_bytes / total)
        if b.host.simulated:
            _pretend(b, volume, kept)
        elif kept.unpacked_bytes is None:
            _send(b, volume, kept, tell)
        else:
            _pour(b, volume, kept, kept.unpacked_bytes, tell)
        arrived[volume] = kept.sha256
        journal.note(b.claim, step_name, **{ARRIVED: arrived})
        passed += kept.size_bytes
    return f"{len(volumes)} files, each with its checksum" if volumes else "it has none"


def _send(
    b: Blueprint, volume: str, kept: ShelfBlueprint, tell: Callable[[float, str], None]
) -> None:
    """Put a file on the host as it is on the shelf, and have the host compute its SHA-256.

    Raises:
        ShelfFileDamaged: it is not what was put on the shelf.
        DiskArrivedDamaged: it is not what was sent; it is sent again.
    """
    connection = connect(b.host.uri)
    source = shelf.require_whole(kept.name, kept.size_bytes)
    told, pool = _bytes(volume, kept.size_bytes, tell), files.pool_of(b, volume)
    sent = haul.send(connection, pool, volume, source, tell=told)
    if sent != kept.sha256:
        raise ShelfFileDamaged(
            f"{source} is not what was put on the shelf (SHA-256 {sent}, not {kept.sha256}): "
            "bring it back from a backup."
        )
    require_arrived(b, volume, kept.size_bytes, sent, checksum.sha256)


def _pour(
    b: Blueprint,
    volume: str,
    kept: ShelfBlueprint,
    length: int,
    tell: Callable[[float, str], None],
) -> None:
    """Put what is in a packed file on the host: the very bytes that the host before had.

    Raises:
        ShelfFileDamaged: they are not.
        DiskArrivedDamaged: it is not what was sent; it is sent again.
    """
    connection = connect(b.host.uri)
    with shelf.unpacked(kept.name, kept.size_bytes) as content:
        told = _bytes(volume, length, tell)
        pool = files.pool_of(b, volume)
        sent = haul.pour(connection, pool, volume, content, length, tell=told)
    if sent != kept.source_digest:
        raise ShelfFileDamaged(
            f"{shelf.path_of(kept.name)} is not what was put on the shelf (BLAKE2b {sent}, not "
            f"{kept.source_digest}): bring it back from a backup."
        )
    require_arrived(b, volume, length, sent)


def _bytes(volume: str, length: int, tell: Callable[[float, str], None]) -> Callable[[int], None]:
    def told(passed: int) -> None:
        done = 0.9 * min(passed / max(length, 1), 1.0)
        tell(done, f"{volume}: copying to the host, {passed >> 20} of {length >> 20} MiB")

    return told


def _pretend(b: Blueprint, volume: str, kept: ShelfBlueprint) -> None:
    """Make a file without content, on what it leans on: simulated hosts have none."""
    connection = connect(b.host.uri)
    backing = storage.volume_path(connection, POOL, kept.base) if kept.base else None
    disk = next((disk for disk in b.data.attached if disk.volume == volume), None)
    if disk is None and not volume.endswith(".qcow2"):
        storage.upload(connection, POOL, volume, b"simulated", "raw")
        return
    storage.ensure_volume(
        connection,
        files.pool_of(b, volume),
        volume,
        disk.size_bytes if disk else b.disk_bytes,
        backing_path=backing,
        fmt=disk.format if disk else "qcow2",
        replace=True,
    )


@step("adopt-disk")
def adopt_disk(b: Blueprint) -> str:
    """Let the files on the host be the server's: there is no way back from here."""
    if not b.committed:
        shelves.let_shelf_go(b.claim)
    return b.root_volume


@step("clear-shelf")
def clear_shelf(b: Blueprint) -> str:
    """Take the files from the shelf."""
    return shelves.clear(b.claim)
