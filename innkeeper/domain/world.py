"""A server as a plan is computed from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL
from innkeeper.domain.planning import Change, Effect
from innkeeper.domain.resizing import Resize, Shape


@dataclass(frozen=True)
class Kept:
    """A snapshot of the server, and whether the server's disk lies on it."""

    id: str
    name: str
    memory: bool
    current: bool


@dataclass(frozen=True)
class DataDisk:
    """A data disk, and whether it is deleted with its server."""

    name: str
    size_gib: int
    goes_with_server: bool = True
    boot_order: int | None = None
    pool: str = POOL


@dataclass(frozen=True)
class Card:
    """A further network card: what it is plugged into, and its address there.

    `neighbours` are the servers of its host that it meets on an isolated network.
    """

    name: str
    told: str
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """A server as a plan is computed from it.

    The subject is the snapshot that a verb names, `disk` and `card` those, if there already.
    `shares` is the source of a linked clone, and `shared_mib` what it has of that at most.
    `lodged` are the pools that its data disks will lie in, by their names, and
    `host` is where it will be, `home` where it was before; `live` is how a migration moves it,
    and `pauses` whether the guest stands still meanwhile. `waits` is whether a resize waits for a
    power cycle, and `waiting` what another one would have changed that waits until now.
    """

    name: str
    status: Status
    shape: Shape
    host: str
    image: str
    snapshots: tuple[Kept, ...] = ()
    subject: Kept | None = None
    resize: Resize | None = None
    disks: tuple[DataDisk, ...] = ()
    disk: DataDisk | None = None
    cards: tuple[Card, ...] = ()
    card: Card | None = None
    lodged: Mapping[str, str] = field(default_factory=dict)
    shares: str = ""
    shared_mib: int = 0
    home: str = ""
    live: bool = False
    pauses: bool = False
    waits: bool = False
    waiting: tuple[Change, ...] = ()

    @property
    def runs(self) -> bool:
        """Tell whether there is a guest that could be interrupted."""
        return self.status is Status.ACTIVE

    def beside(self, what: str) -> list[str]:
        """Tell of the data disks that a snapshot, a clone or the like is not about."""
        names = ", ".join(disk.name for disk in self.disks)
        return [f"Data disks are not part of the {what}: {names}."] if names else []

    @property
    def going_along(self) -> list[str]:
        """Tell of the snapshots and data disks of a server that leaves its host."""
        kept = ", ".join(one.name for one in self.snapshots)
        disks = ", ".join(disk.name for disk in self.disks)
        told = [f"Snapshots that go along: {kept}."] if kept else []
        if self.shares:
            told.append(
                f"It leaves as a full copy: what it shares with {self.shares}, up to "
                f"{self.shared_mib} MiB, is copied, too. {self.shares} is free of it afterwards."
            )
        return [*told, f"Data disks that go along: {disks}."] if disks else told

    @property
    def parting(self) -> tuple[Change, ...]:
        """Tell of a linked clone that becomes a server like any other when it leaves its host."""
        if not self.shares:
            return ()
        return (Change(Effect.LIVE, "root disk", f"shared with {self.shares}", "its own"),)

    @property
    def relodged(self) -> tuple[Change, ...]:
        """Tell of the data disks that will lie in another pool than now."""
        return tuple(
            Change(Effect.LIVE, f"pool of disk {disk.name}", disk.pool, pool)
            for disk in self.disks
            if (pool := self.lodged.get(disk.name, disk.pool)) != disk.pool
        )

    @property
    def parted(self) -> list[str]:
        """Tell of the further cards of a server that comes to a host, and whom it parts from."""
        if not self.cards:
            return []
        told = [f"Network cards that go along: {', '.join(card.name for card in self.cards)}."]
        if self.host != self.home:
            told += [
                f"Card {card.name} {card.told}: an isolated network ends at its host, so over it "
                f"the server does not reach {', '.join(card.neighbours)} on {self.home} any more."
                for card in self.cards
                if card.neighbours
            ]
        return told
