"""What a host's CPUs are, and what a running guest gets of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import libvirt

from innkeeper.domain import tuning
from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.xml.element import parse

_NO_LIMIT = -1


@dataclass(frozen=True)
class Tuning:
    """Weight (None: untouched), percent of a CPU that each vCPU gets, CPUs (None: all)."""

    shares: int | None
    limit: int | None
    pin: tuple[int, ...] | None

    @classmethod
    def of(cls, fine: Mapping[str, Any]) -> Self:
        """Return what the fine print of a CPU says of it."""
        pin = fine.get("pin")
        return cls(fine.get("shares"), fine.get("limit"), tuning.cpus(pin) if pin else None)


@dataclass(frozen=True)
class Tuned:
    """What a running guest gets: the cgroups' numbers, and each vCPU's CPUs."""

    shares: int
    quota: int
    pins: tuple[tuple[int, ...], ...]


@translated()
def tune(conn: libvirt.virConnect, server_id: UUID, wanted: Tuning) -> None:
    """Give the running guest its weight, limit and CPUs; vCPUs plugged in later have them, too.

    Raises:
        StateChanged: the guest does not run.
        NotSupported: the host has no cgroup for that.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    quota = tuning.quota(wanted.limit) if wanted.limit else _NO_LIMIT
    parameters = {"vcpu_period": tuning.PERIOD, "vcpu_quota": quota}
    if wanted.shares:
        parameters["cpu_shares"] = wanted.shares
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    domain.setSchedulerParametersFlags(parameters, live)
    count = _count(conn)
    chosen = range(count) if wanted.pin is None else wanted.pin
    there = tuple(number in chosen for number in range(count))
    for vcpu in range(domain.vcpusFlags(live | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)):
        domain.pinVcpuFlags(vcpu, there, live)


@translated()
def tuned(conn: libvirt.virConnect, server_id: UUID) -> Tuned:
    """Return what the running guest gets.

    Raises:
        StateChanged: the guest does not run.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    told = domain.schedulerParametersFlags(live)
    pins = tuple(
        tuple(number for number, runs in enumerate(row) if runs) for row in domain.vcpuPinInfo(live)
    )
    return Tuned(int(told["cpu_shares"]), int(told["vcpu_quota"]), pins)


def placed(conn: libvirt.virConnect, fine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fine print of a CPU with the host's CPUs in place of its NUMA nodes.

    Raises:
        InvalidRequest: the host has no such node.
    """
    wanted = fine.get("nodes")
    if not wanted:
        return dict(fine)
    there = nodes(conn)
    chosen = tuning.cpus(wanted)
    if missing := tuple(number for number in chosen if number not in there):
        raise InvalidRequest(
            f"The host has no NUMA node {tuning.cpu_set(missing)}: it has "
            f"{tuning.cpu_set(tuple(sorted(there)))}."
        )
    pin = tuning.cpu_set(tuple(sorted(number for node in chosen for number in there[node])))
    return {name: value for name, value in fine.items() if name != "nodes"} | {"pin": pin}


@translated()
def nodes(conn: libvirt.virConnect) -> dict[int, tuple[int, ...]]:
    """Return the host's NUMA nodes, and the CPUs of each that it can use."""
    cells = parse(conn.getCapabilities()).iterfind("host/topology/cells/cell")
    return {
        int(cell.get("id", "0")): tuple(
            int(one.get("id", "0")) for one in cell.iterfind("cpus/cpu")
        )
        for cell in cells
    }


def _count(conn: libvirt.virConnect) -> int:
    return int(conn.getCPUMap(0)[0])


@translated()
def online(conn: libvirt.virConnect) -> set[int]:
    """Return the numbers of the CPUs that the host can use."""
    _, usable, _ = conn.getCPUMap(0)
    return {number for number, there in enumerate(usable) if there}


@translated()
def models(conn: libvirt.virConnect, virt_type: str) -> set[str]:
    """Return the CPU models that guests on the host can have, modes among them.

    Raises:
        NotSupported: it is libvirt's test driver, which does not tell.
    """
    document = parse(conn.getDomainCapabilities(None, "x86_64", "pc", virt_type, 0))
    modes = {
        mode.get("name", "")
        for mode in document.iterfind("cpu/mode")
        if mode.get("supported") == "yes" and mode.get("name") != "custom"
    }
    named = document.iterfind("cpu/mode[@name='custom']/model")
    return modes | {model.text or "" for model in named if model.get("usable") == "yes"}
