"""Resizing: the new shape of a server, and which part of the way there needs a power cycle.

A running guest can get vCPUs up to the number that it was started with room for, and memory up to
its maximum, by the balloon. A vCPU is never taken from a running guest: in QEMU 7.2 that times
out, and the next one plugged in kills the guest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from innkeeper.domain import backing, tuning
from innkeeper.domain.placement import Capacity, Demand
from innkeeper.domain.planning import Change, Effect
from innkeeper.errors import InvalidRequest, NoHostFits

MOST_VCPUS = 32
VCPU_HEADROOM = 4
"""A guest is started with room for this many times its vCPUs; room costs it next to nothing."""


@dataclass(frozen=True)
class Shape:
    """A server's size, how far it can grow while it runs, and its CPU's and memory's fine print."""

    vcpus: int
    memory_mib: int
    disk_gib: int
    max_vcpus: int
    max_memory_mib: int
    cpu: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def demand(self) -> Demand:
        """What it takes from its host."""
        return Demand(self.vcpus, self.memory_mib, self.disk_gib)

    @property
    def pages(self) -> dict[str, int]:
        """How many huge pages it takes from its host, by their size in MiB."""
        return backing.pages(self.memory, self.memory_mib)

    def told(self, subject: str) -> str:
        """Return what a subject of the fine print is, in words."""
        if subject in tuning.SUBJECTS:
            return tuning.told(self.cpu, subject, self.vcpus)
        return backing.told(self.memory, subject)


@dataclass(frozen=True)
class Room:
    """What decides how far a guest may grow while it runs.

    `memory_headroom` times its memory is the most that a guest could take without asking, were its
    balloon driver to lie: more than 1 is for operators who trust their guests. `pluggable_vcpus`
    is how many vCPUs its emulator takes now; None: any number.
    """

    host_vcpus: int
    memory_headroom: float = 1.0
    pluggable_vcpus: int | None = None

    def shape(
        self,
        size: Demand,
        cpu: Mapping[str, Any] | None = None,
        memory: Mapping[str, Any] | None = None,
    ) -> Shape:
        """Return the shape that a guest of this size is started with.

        One whose vCPUs are arranged in a certain way has them all from the start, and one whose
        memory cannot grow or shrink has that.
        """
        most = min(MOST_VCPUS, self.host_vcpus, VCPU_HEADROOM * size.vcpus)
        if tuning.arranged(cpu or {}):
            most = size.vcpus
        headroom = 1.0 if backing.fixed(memory or {}) else self.memory_headroom
        return Shape(
            size.vcpus,
            size.memory_mib,
            size.disk_gib,
            max(size.vcpus, most),
            max(size.memory_mib, int(size.memory_mib * headroom)),
            dict(cpu or {}),
            dict(memory or {}),
        )


@dataclass(frozen=True)
class Resize:
    """The way from one shape to another; `obstacles` tell by subject why it cannot go live."""

    before: Shape
    after: Shape
    obstacles: dict[str, str]

    @property
    def growth(self) -> Demand:
        """What the project and the host have to give."""
        old, new = self.before, self.after
        return Demand(
            max(0, new.vcpus - old.vcpus),
            max(0, new.memory_mib - old.memory_mib),
            max(0, new.disk_gib - old.disk_gib),
        )

    @property
    def peak(self) -> Demand:
        """What is held until the end: the larger of both, whichever way it ends."""
        old, more = self.before, self.growth
        return Demand(
            old.vcpus + more.vcpus, old.memory_mib + more.memory_mib, old.disk_gib + more.disk_gib
        )

    @property
    def changes(self) -> tuple[Change, ...]:
        """What changes, and how."""
        old, new = self.before, self.after
        pairs = (
            ("vCPUs", old.vcpus, new.vcpus, ""),
            ("memory", old.memory_mib, new.memory_mib, " MiB"),
            ("root disk", old.disk_gib, new.disk_gib, " GiB"),
        )
        sizes = [
            (subject, f"{was}{unit}", f"{becomes}{unit}")
            for subject, was, becomes, unit in pairs
            if was != becomes
        ]
        fine = [(subject, old.told(subject), new.told(subject)) for subject in _changed(old, new)]
        return tuple(
            Change(
                Effect.POWER_CYCLE if what in self.obstacles else Effect.LIVE, what, was, becomes
            )
            for what, was, becomes in (*sizes, *fine)
        )


def _changed(before: Shape, after: Shape) -> list[str]:
    """Return what of the fine print differs."""
    return [
        subject
        for subjects, old, new in (
            (tuning.SUBJECTS, before.cpu, after.cpu),
            (backing.SUBJECTS, before.memory, after.memory),
        )
        for subject, names in subjects.items()
        if any(old.get(name) != new.get(name) for name in names)
    ]


def resize(
    before: Shape,
    wanted: Demand,
    room: Room,
    *,
    runs: bool,
    cpu: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
) -> Resize:
    """Return the way to a size; a server that runs takes the live way where there is one.

    `cpu` is the CPU's fine print then, `memory` the memory's; None: as it is.

    Raises:
        InvalidRequest: it has that size already, its disk would shrink, or the fine print does
            not fit together, or to the size.
    """
    fine = before.cpu if cpu is None else dict(cpu)
    made_of = before.memory if memory is None else dict(memory)
    tuning.require_sound(fine, wanted.vcpus)
    backing.require_sound(made_of, wanted.memory_mib)
    if wanted == before.demand and (fine, made_of) == (before.cpu, before.memory):
        raise InvalidRequest("The server has this size already: ask for another.")
    if wanted.disk_gib < before.disk_gib:
        raise InvalidRequest(
            f"A root disk only grows: it has {before.disk_gib} GiB, {wanted.disk_gib} asked."
        )
    fresh = room.shape(wanted, fine, made_of)
    obstacles = _obstacles(before, wanted, fresh, room.pluggable_vcpus) if runs else {}
    stays = (wanted.vcpus, wanted.memory_mib) == (before.vcpus, before.memory_mib)
    stays = stays and tuning.arranged(fine) == tuning.arranged(before.cpu)
    stays = stays and backing.fixed(made_of) == backing.fixed(before.memory)
    if stays or (runs and not obstacles):  # the room that it was started with
        fresh = Shape(
            wanted.vcpus,
            wanted.memory_mib,
            wanted.disk_gib,
            before.max_vcpus,
            before.max_memory_mib,
            fine,
            made_of,
        )
    return Resize(before, fresh, obstacles)


def _obstacles(
    before: Shape, wanted: Demand, fresh: Shape, pluggable: int | None
) -> dict[str, str]:
    found = {}
    if in_the_way := _vcpu_obstacle(before, wanted.vcpus, pluggable):
        found["vCPUs"] = in_the_way
    if wanted.memory_mib != before.memory_mib and backing.fixed(before.memory):
        found["memory"] = (
            "huge pages are all taken when a guest starts"
            if before.memory.get("hugepages")
            else "it was started without a balloon"
        )
    elif wanted.memory_mib > before.max_memory_mib:
        found["memory"] = f"it was started with room for {before.max_memory_mib} MiB of memory"
    elif wanted.memory_mib < before.memory_mib and fresh.max_memory_mib < before.max_memory_mib:
        found["memory"] = "a running guest could take the memory back"
    for subject in _changed(before, fresh):
        if subject in tuning.STARTED_WITH:
            found[subject] = "a running guest keeps the processors that it was started with"
        elif subject in backing.STARTED_WITH:
            found[subject] = "a running guest keeps the memory that it was started with"
    if before.cpu.get("shares") and not fresh.cpu.get("shares"):
        found["CPU shares"] = "what the host's default is, only a start tells"
    return found


def _vcpu_obstacle(before: Shape, wanted: int, pluggable: int | None) -> str | None:
    if wanted < before.vcpus:
        return "a vCPU cannot be taken from a running guest"
    if wanted > before.max_vcpus:
        return f"it was started with room for {before.max_vcpus} vCPUs"
    if pluggable is not None and wanted - before.vcpus > pluggable:
        return f"its emulator has room for {pluggable} more just now"
    return None


def require_room(host: Capacity, way: Resize) -> None:
    """Pass when the server's own host can give what it grows by.

    Raises:
        NoHostFits: the sentence names what is missing.
    """
    missing, free, more = [], host.free, way.growth
    if more.vcpus and way.after.vcpus > host.vcpus:
        missing.append(f"{way.after.vcpus} vCPUs are more than the host's {host.vcpus}")
    for asked, left, noun in (
        (more.vcpus, free.vcpus, "vCPUs"),
        (more.memory_mib, free.memory_mib, "MiB of memory"),
        (more.disk_gib, free.disk_gib, "GiB of disk"),
    ):
        if asked > max(left, 0):
            missing.append(f"{asked} more {noun} asked, {max(left, 0)} free")
    if missing:
        raise NoHostFits(
            f"Host {host.name} cannot give this ({'; '.join(missing)}): ask for less, or delete "
            "a server there."
        )
