"""How much room QEMU's own emulator (TCG, without KVM) has for the code of more processors.

It cuts its cache of translated code into regions, and each vCPU fills one of its own at a time. A
vCPU that is plugged in while all regions are taken ends QEMU, and the guest with it
(`tcg_region_initial_alloc__locked: assertion failed`, QEMU 7.2): a guest that has run for a while
comes by that state again and again, whenever the cache is nearly full.
"""

import re
from uuid import UUID

import libvirt
import libvirt_qemu

from innkeeper.errors import PermanentError
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.xml.element import parse

_CODE = re.compile(r"^gen code size\s+(\d+)/(\d+)", re.MULTILINE)
_LEAST_REGION = 2 << 20  # bytes, and up to eight regions a vCPU: tcg_n_regions() in tcg/region.c
_MOST_EACH = 8
_FILLED = 0.98  # of a region that is full, at least: what is left was too small for the next block


class EmulatorFull(PermanentError):
    """A vCPU that is plugged in now would end the guest."""

    status = 409
    slug = "emulator-full"
    title = "Emulator full"


@translated()
def pluggable_vcpus(conn: libvirt.virConnect, server_id: UUID) -> int | None:
    """Return how many vCPUs a running guest can be given now; None: as many as it has room for.

    That is so with KVM, and of guests that do not run.

    Raises:
        DomainAbsent: there is no domain.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    if not domain.isActive() or parse(domain.XMLDesc()).get("type") != "qemu":
        return None
    flags = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    told = _CODE.search(libvirt_qemu.qemuMonitorCommand(domain, "info jit", flags))
    if told is None:
        return 0
    plugged = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return free_regions(int(told[1]), int(told[2]), plugged, domain.maxVcpus())


def require_room(conn: libvirt.virConnect, server_id: UUID, vcpus: int) -> None:
    """Pass when a running guest can be given so many vCPUs now.

    Raises:
        EmulatorFull: it cannot.
        DomainAbsent: there is no domain.
    """
    there = pluggable_vcpus(conn, server_id)
    if there is not None and there < vcpus:
        raise EmulatorFull(
            f"The guest is emulated (no KVM), and QEMU's cache of translated code has room for "
            f"{there} more vCPUs now, {vcpus} asked: it would end the guest. Ask again: the plan "
            "(--dry-run) says then whether it takes a power cycle, or can be done while it runs."
        )


def free_regions(filled: int, size: int, vcpus: int, most_vcpus: int) -> int:
    """Return how many regions are free, but for one that a vCPU may take at any moment.

    Of `size` bytes of the cache so many are filled; the guest has so many vCPUs, and can have
    `most_vcpus`.
    """
    regions = next(
        (
            each * most_vcpus
            for each in range(_MOST_EACH, 0, -1)
            if size >= each * most_vcpus * _LEAST_REGION
        ),
        most_vcpus,
    )
    taken = int(filled / (_FILLED * size / regions)) + vcpus
    return max(regions - taken - 1, 0)
