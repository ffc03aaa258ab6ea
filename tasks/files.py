"""The files of a server that leaves a host or comes to one: which they are, and their proof.

Onto the shelf and back (tasks/shelf.py, tasks/unshelve.py), or from host to host (tasks/carry.py).
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from innkeeper.domain.naming import POOL, in_pool
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import PermanentError, TransientError
from innkeeper.host import checksum
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal
from innkeeper.services.blueprint import Blueprint

APART = "apart"
"""Noted in the first step that sends files: further pools of the host are not the other host's."""


class DiskInUse(PermanentError):
    """Somebody uses the disk, or has written to it, who should not."""

    status = 409
    slug = "disk-in-use"
    title = "Disk in use"


class PoolShared(PermanentError):
    """What would be put into a pool is there before."""


class DiskArrivedDamaged(TransientError):
    """What is on the host is not what was sent."""


def root_file(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return the file of a server's root disk, as an artifact."""
    return [(ArtifactKind.VOLUME, b.root_volume)]


def data_volumes(b: Blueprint) -> list[str]:
    """Return the volumes of a server's data disks."""
    return [disk.volume for disk in b.data.attached]


def data_files(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return the files of a server's data disks, as artifacts."""
    return [(ArtifactKind.VOLUME, in_pool(disk.pool, disk.volume)) for disk in b.data.attached]


def data_copies(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return the same where they are copies: once they are the server's their own rows tell."""
    return [] if b.committed else data_files(b)


def pool_of(b: Blueprint, volume: str) -> str:
    """Return the pool of the host in which a volume of the server lies, or is to lie."""
    return next((disk.pool for disk in b.data.all if disk.volume == volume), POOL)


def path_of(b: Blueprint, volume: str) -> Path:
    """Return the path of a volume of the server on its host."""
    return storage.volume_path(connect(b.host.uri), pool_of(b, volume), volume)


def length_of(b: Blueprint, volume: str) -> int:
    """Return the length of the file of a volume of the server, in bytes."""
    return storage.length(connect(b.host.uri), pool_of(b, volume), volume)


def there(b: Blueprint, volumes: Collection[str]) -> set[str]:
    """Return which of these volumes of the server are on its host."""
    by_pool = _by_pool(b, volumes)
    conn = connect(b.host.uri)
    found = (set(storage.volume_names(conn, pool)) & names for pool, names in by_pool.items())
    return set().union(*found)


def allocated(b: Blueprint, volumes: Collection[str]) -> dict[str, int]:
    """Return what volumes of the server really take of its host, in bytes; of those there."""
    conn = connect(b.host.uri)
    found: dict[str, int] = {}
    for pool, names in _by_pool(b, volumes).items():
        found |= storage.allocated(conn, pool, names)
    return found


def _by_pool(b: Blueprint, volumes: Collection[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for volume in volumes:
        found.setdefault(pool_of(b, volume), set()).add(volume)
    return found


def delete(b: Blueprint, volume: str) -> None:
    """Delete a volume of the server from its host; fine when it is absent."""
    storage.delete_volume(connect(b.host.uri), pool_of(b, volume), volume)


def require_room(b: Blueprint, coming: Mapping[str, int], least: str = "") -> None:
    """See that the host's pools have space for volumes of so many bytes; `least`: or for more.

    Raises:
        PoolFull: one has not.
    """
    for pool, names in _by_pool(b, coming).items():
        needed = sum(coming[name] for name in names)
        free = storage.pool_capacity(connect(b.host.uri), pool).free_bytes
        if needed > free:
            which = "the pool" if pool == POOL else f"pool '{pool}'"
            raise PoolFull(
                f"The files of {b.name} take {needed >> 20} MiB {least or 'more'}, {which} of "
                f"{b.host.name} has {free >> 20} MiB left: free space there, or choose another "
                "host."
            )


def require_apart(b: Blueprint, step_name: str) -> None:
    """See that what comes into further pools of the host is nobody's there, then note that.

    Two hosts may share such a pool (NFS): then a copy would be the file that it is made of, and
    is neither to be replaced nor, by an undo, to be deleted.

    Raises:
        PoolShared: a file of that name is there before anything was sent.
    """
    further = [disk for disk in b.data.attached if disk.pool != POOL]
    if not further or b.step_data.get(APART):
        return
    if present := there(b, [disk.volume for disk in further]):
        told = [f"{disk.name} in {disk.pool}" for disk in further if disk.volume in present]
        raise PoolShared(
            f"Host {b.host.name} has files of data disks of {b.name} already ({', '.join(told)}). "
            "If both hosts share that pool (NFS), detach them first (`innkeeper disk detach`), or "
            "have its operator forget the pool there (`innkeeper host pools`); if copies were left "
            "there, reconcile removes them: try again then."
        )
    journal.note(b.claim, step_name, **{APART: True})


def erase_copies(b: Blueprint, step_name: str) -> str:
    """Delete what was put on a host of data disks, if `require_apart` of that step has passed."""
    apart = journal.noted(b.claim, step_name).get(APART)
    ours = [disk.volume for disk in b.data.attached if disk.pool == POOL or apart]
    for name in reversed(ours):
        delete(b, name)
    return f"{len(ours)} deleted"


def require_image(b: Blueprint, way_out: str) -> None:
    """See that the host's image is the image; `way_out` says what to do to get another host.

    Raises:
        ShelfFileDamaged: it is not.
    """
    connection, base = connect(b.host.uri), b.disk_image.volume
    path = storage.volume_path(connection, POOL, base)
    length = storage.length(connection, POOL, base)
    if checksum.sha256(open_channel(b.host.channel), path, length) != b.disk_image.sha256:
        raise ShelfFileDamaged(
            f"The image {path} on {b.host.name} is not {b.disk_image.name}: {way_out}, and have "
            "that one looked after."
        )


def require_arrived(
    b: Blueprint,
    volume: str,
    length: int,
    digest: str,
    compute: Callable[[HostChannel, Path, int], str] | None = None,
) -> None:
    """Have the host put a file on its disk, and compute what it has then, as BLAKE2b if not told.

    Raises:
        DiskArrivedDamaged: it is not what was sent; it is sent again.
    """
    channel, path = open_channel(b.host.channel), path_of(b, volume)
    checksum.settle(channel, path, length)  # before whatever it was copied from may go
    if (compute or checksum.blake2b)(channel, path, length) != digest:
        raise DiskArrivedDamaged(f"{path} on {b.host.name} is not what was sent: sending it again.")
