"""Best-fit placement with a verdict that names every host and why it was refused.

Filters, then one weigher, in the manner of Nova's scheduler: the host that is left with the least
waste wins, so that large holes stay whole for large servers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from innkeeper.domain.offer import Pages
from innkeeper.errors import ForwardPortsExhausted, NoHostFits


@dataclass(frozen=True)
class Demand:
    """What a server takes from its host."""

    vcpus: int
    memory_mib: int
    disk_gib: int


MEMORY_PART = 0.8
DISK_PART = 0.9
"""What of a host may be taken before it is worth a warning."""


@dataclass(frozen=True)
class Measured:
    """What a host really has left now, whoever took the rest; None: there is no pool yet."""

    memory_mib: int
    available_mib: int
    disk_gib: int | None = None
    free_gib: int | None = None
    pages: Mapping[int, Pages] = field(default_factory=dict)

    def warnings(self, name: str) -> tuple[str, ...]:
        """Say where more is in use than the usual part; it is no reason to refuse anything."""
        over = []
        if self.available_mib < self.memory_mib * (1 - MEMORY_PART):
            over.append(
                f"More than {MEMORY_PART:.0%} of the memory of {name} is in use: "
                f"{self.available_mib} of {self.memory_mib} MiB are available."
            )
        full = self.disk_gib and self.free_gib is not None
        if full and (self.free_gib or 0) < (self.disk_gib or 0) * (1 - DISK_PART):
            over.append(
                f"More than {DISK_PART:.0%} of the disk of {name} is in use: {self.free_gib} of "
                f"{self.disk_gib} GiB are free."
            )
        return tuple(over)


@dataclass(frozen=True)
class Capacity:
    """A host's size, what is reserved of it, and whether it takes servers at all.

    `objections` are reasons that only this one server has against the host; `astray` those of its
    data disks that lay in further pools and would lie in the usual one, and how many GiB that is.
    """

    host_id: UUID
    name: str
    enabled: bool
    vcpus: int
    memory_mib: int
    disk_gib: int
    cpu_overcommit: float
    memory_overcommit: float
    reserved: Demand = field(default=Demand(0, 0, 0))
    free_ports: int = 1
    reachable: bool = True
    objections: tuple[str, ...] = ()
    astray: tuple[str, ...] = ()
    astray_gib: int = 0

    @property
    def free(self) -> Demand:
        """Return what is left after overcommit and reservations (may be negative)."""
        return Demand(
            int(self.vcpus * self.cpu_overcommit) - self.reserved.vcpus,
            int(self.memory_mib * self.memory_overcommit) - self.reserved.memory_mib,
            self.disk_gib - self.reserved.disk_gib,
        )

    @property
    def margin(self) -> Demand:
        """Return what is left of the part of memory and disk that is usually taken (or less)."""
        free, held = self.free, self.reserved
        return Demand(
            free.vcpus,
            int((free.memory_mib + held.memory_mib) * MEMORY_PART) - held.memory_mib,
            int(self.disk_gib * DISK_PART) - held.disk_gib,
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say where more is taken than that part; it is no reason to refuse anything."""
        over = []
        if self.margin.memory_mib < 0:
            over.append(f"More than {MEMORY_PART:.0%} of the memory of {self.name} is taken.")
        if self.margin.disk_gib < 0:
            over.append(f"More than {DISK_PART:.0%} of the disk of {self.name} is taken.")
        return tuple(over)


@dataclass(frozen=True)
class Opinion:
    """What placement thought of one host."""

    host_id: UUID
    host: str
    refused: str | None
    waste: float | None


@dataclass(frozen=True)
class Verdict:
    """The choice and every opinion that led to it."""

    chosen: UUID | None
    opinions: tuple[Opinion, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the database and the UI."""
        return {
            "chosen": str(self.chosen) if self.chosen else None,
            "hosts": [
                asdict(opinion) | {"host_id": str(opinion.host_id)} for opinion in self.opinions
            ],
        }


@dataclass(frozen=True)
class Tie:
    """The only host that a server can be on, and why others are refused."""

    host_id: UUID
    reason: str


NO_PORT = "no forward port is free"
Rule = Callable[[Capacity, Demand], str | None]


def _enabled(host: Capacity, _demand: Demand) -> str | None:
    return None if host.enabled else "the host is disabled"


def _reachable(host: Capacity, _demand: Demand) -> str | None:
    return None if host.reachable else "the host does not answer"


def _cpu(host: Capacity, demand: Demand) -> str | None:
    if demand.vcpus > host.vcpus:
        return f"{demand.vcpus} vCPUs are more than the host's {host.vcpus}"
    free = host.free.vcpus
    return None if demand.vcpus <= free else f"{demand.vcpus} vCPUs asked, {max(free, 0)} free"


def _memory(host: Capacity, demand: Demand) -> str | None:
    free = host.free.memory_mib
    if demand.memory_mib <= free:
        return None
    return f"{demand.memory_mib} MiB of memory asked, {max(free, 0)} MiB free"


def _disk(host: Capacity, demand: Demand) -> str | None:
    free, asked = host.free.disk_gib, demand.disk_gib + host.astray_gib
    if asked <= free:
        return None
    told = f"{asked} GiB of disk asked, {max(free, 0)} GiB free"
    return f"{told} ({'; '.join(host.astray)})" if host.astray else told


def _ports(host: Capacity, _demand: Demand) -> str | None:
    return None if host.free_ports > 0 else NO_PORT


def _objections(host: Capacity, _demand: Demand) -> str | None:
    return "; ".join(host.objections) or None


RULES: tuple[Rule, ...] = (_enabled, _reachable, _cpu, _memory, _disk, _ports, _objections)


def waste(host: Capacity, demand: Demand) -> float:
    """Return the mean share of CPU and memory that stays free when the server is placed there."""
    cpu_total = max(host.vcpus * host.cpu_overcommit, 1)
    memory_total = max(host.memory_mib * host.memory_overcommit, 1)
    free = host.free
    return (
        (free.vcpus - demand.vcpus) / cpu_total
        + (free.memory_mib - demand.memory_mib) / memory_total
    ) / 2


def place(demand: Demand, hosts: Sequence[Capacity], tie: Tie | None = None) -> Verdict:
    """Judge every host and choose the fitting one with the least waste (then by name).

    One that has the pools that the server's disks lie in comes before all that have not.
    """
    opinions = []
    for host in sorted(hosts, key=lambda h: h.name):
        reasons = [reason for rule in RULES if (reason := rule(host, demand))]
        if tie is not None and host.host_id != tie.host_id:
            reasons.insert(0, tie.reason)
        opinions.append(
            Opinion(
                host.host_id,
                host.name,
                "; ".join(reasons) or None,
                None if reasons else round(waste(host, demand), 4),
            )
        )
    fitting = [opinion for opinion in opinions if opinion.waste is not None]
    astray = {host.host_id: bool(host.astray) for host in hosts}
    chosen = min(fitting, key=lambda o: (astray[o.host_id], o.waste or 0.0, o.host), default=None)
    return Verdict(chosen.host_id if chosen else None, tuple(opinions))


def require_chosen(verdict: Verdict, waits: Demand | None = None) -> UUID:
    """Return the chosen host.

    `waits` is the part of what was asked for that a resize which waits will grow by.

    Raises:
        ForwardPortsExhausted: only forward ports were missing.
        NoHostFits: otherwise; the sentence names every host and its reasons.
    """
    if verdict.chosen is not None:
        return verdict.chosen
    if not verdict.opinions:
        raise NoHostFits("There is no host yet: add one with `innkeeper host add NAME URI`.")
    reasons = "; ".join(f"{o.host}: {o.refused}" for o in verdict.opinions)
    if all(o.refused == NO_PORT for o in verdict.opinions):
        raise ForwardPortsExhausted(
            f"No forward port is free on any host ({reasons}): delete a server or add a host."
        )
    later = ""
    if waits is not None and any((waits.vcpus, waits.memory_mib, waits.disk_gib)):
        later = (
            f" Of what it takes, {waits.vcpus} vCPUs, {waits.memory_mib} MiB of memory and "
            f"{waits.disk_gib} GiB of disk are for its resize that waits: `innkeeper server "
            "cancel-resize` forgets that."
        )
    raise NoHostFits(
        f"No host can take this server ({reasons}): ask for less or add a host.{later}"
    )
