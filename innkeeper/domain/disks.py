"""Data disks: how many there may be, where they are plugged in, what growing one needs."""

from collections.abc import Collection, Mapping
from typing import Literal, get_args

from innkeeper.errors import Conflict, InvalidRequest

Format = Literal["qcow2", "raw", "vmdk"]
FORMATS: tuple[Format, ...] = get_args(Format)
POOL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
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


def root_order(taken: Collection[int]) -> int | None:
    """Return the root disk's place in the order of booting: the first that no data disk has.

    None when there is no order: then it is the only disk that is booted from.
    """
    return next(place for place in range(1, MOST + 2) if place not in taken) if taken else None


def require_place(name: str, place: int, taken: Mapping[int, str]) -> None:
    """Pass when no other disk of the server has this place in the order of booting.

    Raises:
        Conflict: it names the one that has it.
    """
    if place in taken:
        raise Conflict(
            f"Disk '{taken[place]}' has boot order {place} already: give '{name}' another one, or "
            "0, which is not to be booted from."
        )


def discards(fmt: str) -> bool:
    """Tell whether what a guest trims of a disk can be given back: QEMU cannot do it of vmdk."""
    return fmt != "vmdk"


def stays_put(fmt: str) -> bool:
    """Tell whether QEMU refuses to send or to save the memory of a guest with such a disk."""
    return fmt == "vmdk"


def require_possible(name: str, fmt: str, *, discard: bool) -> None:
    """Pass when a disk of this format can do what is asked of it.

    Raises:
        InvalidRequest: it cannot; the sentence says what can.
    """
    if discard and not discards(fmt):
        raise InvalidRequest(
            f"Disk '{name}' is {fmt}, of which nothing that the guest trims can be given back: "
            "leave discard out, or make it qcow2 or raw."
        )


def require_growth(name: str, fmt: str, size_gib: int, wanted_gib: int) -> None:
    """Pass when a disk would grow, and can.

    Raises:
        InvalidRequest: it would not, or shrink, or its format cannot.
    """
    if fmt == "vmdk":
        raise InvalidRequest(
            f"Disk '{name}' is vmdk, which nobody can grow on a host: attach a larger disk "
            "(`innkeeper disk attach`), copy what is on this one, and detach it."
        )
    if wanted_gib <= size_gib:
        raise InvalidRequest(
            f"Disk '{name}' has {size_gib} GiB and only grows, {wanted_gib} asked: ask for more."
        )
