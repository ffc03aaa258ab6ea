"""What a host has of memory and huge pages, and what a guest's memory is bound by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import libvirt

from innkeeper.errors import TransientError
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.errors import classify, translated
from innkeeper.hypervisor.xml.devices import Controller, MemBalloon
from innkeeper.hypervisor.xml.domain import Domain, VirtType, backing_element, memtune_element
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.system import Features, Memory, OperatingSystem, Vcpu

_KIB = 1024
_SMALLEST_MIB = 2
_UNLIMITED_KIB = 9007199254740991  # VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, which libvirt-python lacks


@dataclass(frozen=True)
class Pages:
    """Huge pages of one size: how many there are, and how many nobody uses."""

    total: int
    free: int


@translated()
def pages_on(conn: libvirt.virConnect) -> dict[int, dict[int, Pages]]:
    """Return, by NUMA node, a host's huge pages by their size in MiB.

    Of sizes that it could have, but has set nothing aside for, there are none.
    """
    host = parse(conn.getCapabilities())
    sizes = {int(page.get("size", "0")) for page in host.iterfind("host/cpu/pages")}
    huge = sorted(size for size in sizes if size >= _KIB)
    found: dict[int, dict[int, Pages]] = {}
    for cell in host.iterfind("host/topology/cells/cell"):
        node = int(cell.get("id", "0"))
        total = {int(p.get("size", "0")): int(p.text or 0) for p in cell.iterfind("pages")}
        told = conn.getFreePages(huge, node, 1, 0) if huge else {}
        free = {size: int(count) for counts in told.values() for size, count in counts.items()}
        found[node] = {size // _KIB: Pages(total.get(size, 0), free.get(size, 0)) for size in huge}
    return found


def pages(conn: libvirt.virConnect) -> dict[int, Pages]:
    """Return a host's huge pages by their size in MiB, those of all its NUMA nodes together."""
    found: dict[int, Pages] = {}
    for there in pages_on(conn).values():
        for size, more in there.items():
            one = found.get(size, Pages(0, 0))
            found[size] = Pages(one.total + more.total, one.free + more.free)
    return found


@translated()
def available_mib(conn: libvirt.virConnect) -> tuple[int, int]:
    """Return a host's MiB of memory, and how many of them it could give now without swapping."""
    told = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
    spare = sum(int(told.get(name, 0)) for name in ("free", "buffers", "cached"))
    return int(told["total"]) // _KIB, spare // _KIB


def obstacle(conn: libvirt.virConnect, virt_type: VirtType, fine: Mapping[str, Any]) -> str | None:
    """Return why no guest could start with huge pages or a soft limit; None: one did.

    libvirt tells neither beforehand whether a hugetlbfs is mounted that it knows of, nor whether it
    has a control group for memory. So a guest of a page is started that never runs, and that ends
    with this connection.

    Raises:
        HostUnreachable: the host does not answer.
    """
    if virt_type == "test":
        return None
    identifier = uuid4()
    size = int(fine.get("hugepages") or _SMALLEST_MIB)
    document = Domain(
        type=virt_type,
        name=f"ik-memory-{identifier.hex[:12]}",
        uuid=identifier,
        memory=Memory(amount=size),
        memory_backing=backing_element(fine),
        memtune=memtune_element(fine),
        vcpu=Vcpu(count=1),
        os=OperatingSystem(arch="x86_64", machine="pc"),
        features=Features(),
        devices=(Controller(type="usb", model="none"), MemBalloon(model="none")),
    ).render()
    flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    try:
        conn.createXML(document, flags)
    except libvirt.libvirtError as error:
        found = classify(error)
        if isinstance(found, TransientError):
            raise found from error
        return str(error.get_error_message() or error)
    guest.destroy(conn, identifier)
    return None


@translated()
def limit(conn: libvirt.virConnect, server_id: UUID, soft_limit_mib: int | None) -> None:
    """Give the running guest a soft limit of its memory; None: none.

    Raises:
        StateChanged: the guest does not run, or the host has no control group for memory.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    amount = soft_limit_mib * _KIB if soft_limit_mib else _UNLIMITED_KIB
    domain.setMemoryParameters({"soft_limit": amount}, libvirt.VIR_DOMAIN_AFFECT_LIVE)


@translated()
def limited_mib(conn: libvirt.virConnect, server_id: UUID) -> int | None:
    """Return the soft limit of the running guest; None: it has none.

    Raises:
        StateChanged: the guest does not run, or the host has no control group for memory.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    amount = int(domain.memoryParameters(libvirt.VIR_DOMAIN_AFFECT_LIVE)["soft_limit"])
    return None if amount >= _UNLIMITED_KIB else amount // _KIB
