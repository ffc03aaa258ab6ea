"""A guest's vCPUs, memory and disk while it runs, and as its definition has them.

Never take a vCPU from a running guest: QEMU 7.2 does not manage, and the next one kills it.
"""

import time
from uuid import UUID

import libvirt

from innkeeper.errors import PermanentError
from innkeeper.hypervisor import emulator, guest
from innkeeper.hypervisor.errors import (
    AgentUnavailable,
    NotSupported,
    OperationTimedOut,
    StateChanged,
    translated,
)
from innkeeper.hypervisor.snapshot import ROOT
from innkeeper.hypervisor.xml.element import parse

_KIB = 1024
_POLL_SECONDS = 0.2
_ONLINE_SECONDS = 5.0
_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class BalloonStuck(PermanentError):
    """The guest does not give or take memory: it has no balloon driver, or needs what it has."""

    status = 409
    slug = "balloon-stuck"
    title = "Balloon stuck"


@translated()
def defined(conn: libvirt.virConnect, server_id: UUID) -> tuple[int, int, int, int]:
    """Return vCPUs, MiB of memory, and the most of both, of the guest's next start.

    Raises:
        DomainAbsent: there is no domain.
    """
    document = parse(_domain(conn, server_id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    mebibytes = []
    for name in ("currentMemory", "memory"):
        node = document.find(name)
        if node is None or node.text is None:
            raise StateChanged(f"The definition has no {name}.")
        mebibytes.append((int(node.text) * _UNITS[node.get("unit", "KiB")]) >> 20)
    vcpu = document.find("vcpu")
    most = int((vcpu.text if vcpu is not None else None) or 1)
    now = int(vcpu.get("current", most)) if vcpu is not None else most
    return now, mebibytes[0], most, mebibytes[1]


@translated()
def vcpus(conn: libvirt.virConnect, server_id: UUID) -> int:
    """Return how many vCPUs are plugged into the running guest.

    Raises:
        StateChanged: it does not run.
    """
    return int(_domain(conn, server_id).vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE))


@translated()
def memory_mib(conn: libvirt.virConnect, server_id: UUID) -> int:
    """Return how much memory the balloon leaves the guest now."""
    return int(_domain(conn, server_id).info()[2]) // _KIB


def set_memory(conn: libvirt.virConnect, server_id: UUID, mebibytes: int, seconds: float) -> None:
    """Have the running guest's balloon leave it that much memory, and wait until it does.

    Raises:
        StateChanged: the guest does not run.
        BalloonStuck: it did not follow in time.
    """
    domain = _domain(conn, server_id)
    with translated():
        domain.setMemoryFlags(mebibytes * _KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    deadline = time.monotonic() + seconds
    while (there := memory_mib(conn, server_id)) != mebibytes:
        if time.monotonic() > deadline:
            raise BalloonStuck(
                f"The guest was asked to have {mebibytes} MiB of memory and has {there} after "
                f"{seconds:.0f} s: load its virtio_balloon driver, free memory in it, or stop it "
                "and resize it then."
            )
        time.sleep(_POLL_SECONDS)


@translated()
def plug_vcpus(conn: libvirt.virConnect, server_id: UUID, count: int) -> None:
    """See that the running guest has at least so many vCPUs; none is ever taken away.

    Raises:
        StateChanged: the guest does not run.
        DocumentRefused: it was started with room for fewer.
        EmulatorFull: it would end the guest.
    """
    domain = _domain(conn, server_id)
    more = count - domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    if more <= 0:
        return
    emulator.require_room(conn, server_id, more)
    domain.setVcpusFlags(count, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def online_vcpus(conn: libvirt.virConnect, server_id: UUID, count: int) -> bool:
    """Have the guest agent bring plugged vCPUs online; tell whether it did.

    A guest may do it by itself, or have no agent.
    """
    domain, deadline = _domain(conn, server_id), time.monotonic() + _ONLINE_SECONDS
    guest.bound_agent(conn, server_id, _ONLINE_SECONDS)
    while time.monotonic() < deadline:
        try:
            with translated():
                if domain.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_GUEST) >= count:
                    return True
                domain.setVcpusFlags(count, libvirt.VIR_DOMAIN_VCPU_GUEST)
        except (AgentUnavailable, OperationTimedOut):
            pass
        except (NotSupported, StateChanged):
            return False
        except PermanentError:  # the guest has not seen them all yet
            pass
        time.sleep(_POLL_SECONDS)
    return False


@translated()
def grow_disk(conn: libvirt.virConnect, server_id: UUID, capacity_bytes: int) -> None:
    """See that the running guest's root disk has at least that size; the guest sees it at once.

    Raises:
        StateChanged: the guest does not run.
    """
    domain = _domain(conn, server_id)
    if domain.blockInfo(ROOT, 0)[0] < capacity_bytes:
        domain.blockResize(ROOT, capacity_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))
