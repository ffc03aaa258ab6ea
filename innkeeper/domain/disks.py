"""Data disks: how many there may be, where they are plugged in, what growing one needs."""

from collections.abc import Collection

from innkeeper.errors import Conflict, InvalidRequest

MOST = 10
LARGEST_GIB = 2048
_LETTERS = "bcdefghijklmnopqrstuvwxy"
"""vda is the root disk, vdz the seed."""


def free_target(taken: Collection[str]) -> str:
    """Return the first device name that none of a server's data disks has.

    A disk keeps its name as long as it is attached, whatever others come and go.

    Raises:
        Conflict: the server has as many disks as it may.
    """
    if len(taken) >= MOST:
        raise Conflict(
            f"A server has {MOST} data disks at most: detach one first (`innkeeper disk detach`)."
        )
    return next(name for name in (f"vd{letter}" for letter in _LETTERS) if name not in taken)


def require_growth(name: str, size_gib: int, wanted_gib: int) -> None:
    """Pass when a disk would grow.

    Raises:
        InvalidRequest: it would not, or shrink.
    """
    if wanted_gib <= size_gib:
        raise InvalidRequest(
            f"Disk '{name}' has {size_gib} GiB and only grows, {wanted_gib} asked: ask for more."
        )
