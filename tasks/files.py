"""The files of a server that leaves a host or comes to one: which they are, and their proof.

Onto the shelf and back (tasks/shelf.py, tasks/unshelve.py), or from host to host (tasks/carry.py).
"""

from collections.abc import Callable
from pathlib import Path

from innkeeper.domain.naming import POOL
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import PermanentError, TransientError
from innkeeper.host import checksum
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services.blueprint import Blueprint


class DiskInUse(PermanentError):
    """Somebody uses the disk, or has written to it, who should not."""

    status = 409
    slug = "disk-in-use"
    title = "Disk in use"


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
    return [(ArtifactKind.VOLUME, name) for name in data_volumes(b)]


def data_copies(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return the same where they are copies: once they are the server's their own rows tell."""
    return [] if b.committed else data_files(b)


def require_room(b: Blueprint, needed: int, least: str = "") -> None:
    """See that the host's pool has space for so many more bytes; `least` says how sure that is.

    Raises:
        PoolFull: it has not.
    """
    free = storage.pool_capacity(connect(b.host.uri), POOL).free_bytes
    if needed > free:
        raise PoolFull(
            f"The files of {b.name} take {needed >> 20} MiB {least or 'more'}, the pool of "
            f"{b.host.name} has {free >> 20} MiB left: free space there, or choose another host."
        )


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
    channel = open_channel(b.host.channel)
    path = storage.volume_path(connect(b.host.uri), POOL, volume)
    checksum.settle(channel, path, length)  # before whatever it was copied from may go
    if (compute or checksum.blake2b)(channel, path, length) != digest:
        raise DiskArrivedDamaged(f"{path} on {b.host.name} is not what was sent: sending it again.")
