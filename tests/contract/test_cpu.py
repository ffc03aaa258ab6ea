"""What of a CPU's fine print libvirt takes, and what the host's kernel then has."""

import os
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from innkeeper.hypervisor import cpu, firmware, guest
from innkeeper.hypervisor.cpu import Tuning
from innkeeper.hypervisor.errors import NotSupported

if TYPE_CHECKING:
    from conftest import Definer, Host


# The test driver has no cgroups.
on_the_lab = pytest.mark.parametrize("host", ["lab"], indirect=True)


def threads(server_id: UUID) -> dict[str, set[int]]:
    """Return on which CPUs the kernel lets each vCPU thread of a running guest."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            if str(server_id).encode() not in (process / "cmdline").read_bytes():
                continue
            for task in (process / "task").iterdir():
                name = (task / "comm").read_text().strip()
                if name.startswith("CPU "):
                    found[name] = os.sched_getaffinity(int(task.name))
        except (OSError, ValueError):
            continue
    return found


@on_the_lab
def test_a_running_guest_is_tuned_and_back(host: "Host", define: "Definer") -> None:
    server = define(vcpus=2, max_vcpus=4)
    guest.start(host.conn, server)
    before = cpu.tuned(host.conn, server)
    assert all(cpus == {0, 1} for cpus in threads(server).values())
    for _ in range(2):
        cpu.tune(host.conn, server, Tuning(shares=333, limit=40, pin=(1,)))
        there = cpu.tuned(host.conn, server)
        assert (there.shares, there.quota) == (333, 40_000)
        assert set(there.pins) == {(1,)}
        assert threads(server) == {"CPU 0/TCG": {1}, "CPU 1/TCG": {1}}
    host.conn.lookupByUUIDString(str(server)).setVcpusFlags(3, 1)
    assert threads(server)["CPU 2/TCG"] == {1}, "one that is plugged in later, too"
    cpu.tune(host.conn, server, Tuning(shares=before.shares, limit=None, pin=None))
    back = cpu.tuned(host.conn, server)
    assert (back.shares, back.quota < 0) == (before.shares, True)
    assert all(cpus == {0, 1} for cpus in threads(server).values())


@on_the_lab
def test_a_guest_starts_with_what_it_is_defined_with(host: "Host", define: "Definer") -> None:
    fine = {"sockets": 2, "threads": 2, "model": "qemu64", "shares": 222, "limit": 30, "pin": "1"}
    server = define(vcpus=4, cpu=fine)
    guest.start(host.conn, server)
    there = cpu.tuned(host.conn, server)
    assert (there.shares, there.quota, set(there.pins)) == (222, 30_000, {(1,)})
    assert {frozenset(cpus) for cpus in threads(server).values()} == {frozenset({1})}


def test_a_host_tells_its_cpus_and_models(host: "Host") -> None:
    assert 0 in cpu.online(host.conn)
    if not host.real:
        with pytest.raises(NotSupported):
            cpu.models(host.conn, host.virt_type)
        return
    found = cpu.models(host.conn, "qemu")
    assert {"maximum", "qemu64"} <= found
    assert "host-passthrough" not in found, "that is KVM's"


def test_a_host_tells_whether_guests_can_boot_by_uefi(host: "Host") -> None:
    if host.real:
        assert firmware.has_uefi(host.conn, "qemu")
        return
    with pytest.raises(NotSupported):
        firmware.has_uefi(host.conn, host.virt_type)
