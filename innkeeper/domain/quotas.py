"""Quota arithmetic: what a project may hold, what it holds, what a request adds."""

from dataclasses import dataclass, fields
from typing import TypeVar

from innkeeper.errors import QuotaExceeded


@dataclass(frozen=True)
class Amounts:
    """Countable things of a project."""

    servers: int
    vcpus: int
    memory_mib: int
    disk_gib: int


@dataclass(frozen=True)
class SnapshotAmounts:
    """What a project's snapshots hold."""

    snapshots: int
    snapshot_gib: int


@dataclass(frozen=True)
class NetworkAmounts:
    """What a project's further network cards are on; one of a name counts once on all hosts."""

    isolated_networks: int


Countable = TypeVar("Countable", Amounts, SnapshotAmounts, NetworkAmounts)

_NOUNS = {
    "servers": "servers",
    "vcpus": "vCPUs",
    "memory_mib": "MiB of memory",
    "disk_gib": "GiB of disk",
    "snapshots": "snapshots",
    "snapshot_gib": "GiB of snapshots",
    "isolated_networks": "isolated networks",
}
_REMEDIES: dict[type, str] = {
    Amounts: "Delete servers",
    SnapshotAmounts: "Delete snapshots",
    NetworkAmounts: "Detach network cards",
}


def require_within(limit: Countable, used: Countable, asked: Countable) -> None:
    """Pass when `used + asked` stays within `limit` (a limit of -1 is none).

    Raises:
        QuotaExceeded: the sentence names every limit that would be broken.
    """
    broken = []
    for entry in fields(limit):
        maximum, held = getattr(limit, entry.name), getattr(used, entry.name)
        wanted = getattr(asked, entry.name)
        if 0 <= maximum < held + wanted:
            broken.append(f"{held} of {maximum} {_NOUNS[entry.name]} in use, {wanted} more asked")
    if broken:
        raise QuotaExceeded(
            f"The project's quota does not cover this: {'; '.join(broken)}. "
            f"{_REMEDIES[type(limit)]} or ask an operator to raise the quota."
        )
