"""What of a memory's fine print libvirt takes, and what the host's kernel then has."""

from typing import TYPE_CHECKING

import host_memory
import pytest
from host_memory import soft_limit

from innkeeper.domain import tuning
from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor import cpu, guest, memory
from innkeeper.hypervisor.errors import HostOutOfMemory, NotSupported
from innkeeper.hypervisor.xml.element import parse

if TYPE_CHECKING:
    from conftest import Definer, Host

on_the_lab = pytest.mark.parametrize("host", ["lab"], indirect=True)


@on_the_lab
def test_huge_pages_are_taken_and_given_back(host: "Host", define: "Definer") -> None:
    with host_memory.set_aside(24) as there_are:
        if not there_are:
            pytest.skip("this machine cannot set huge pages aside")
        assert memory.obstacle(host.conn, host.virt_type, {"hugepages": 2}) is None
        assert host_memory.pages_read(lambda: memory.pages(host.conn)[2].free)
        server = define(memory={"hugepages": 2}, memory_mib=32)
        guest.start(host.conn, server)
        assert host_memory.taken_mib(server) == 32
        assert host_memory.pages_read(lambda: memory.pages(host.conn)[2].free)
        there = memory.pages(host.conn)[2]
        assert there.free <= there.total - 16
        second = define(memory={"hugepages": 2}, memory_mib=2 * there.total)
        with pytest.raises(HostOutOfMemory):
            guest.start(host.conn, second)
        usual = define()
        guest.start(host.conn, usual)
        assert host_memory.taken_mib(usual) == 0


@on_the_lab
def test_what_cannot_start_is_told_beforehand(host: "Host") -> None:
    told = memory.obstacle(host.conn, host.virt_type, {"hugepages": 4})
    assert told
    assert "hugetlbfs" in told
    assert [d for d in host.conn.listAllDomains() if d.name().startswith("ik-memory-")] == []


@on_the_lab
def test_a_running_guest_is_limited_and_back(host: "Host", define: "Definer") -> None:
    if told := memory.obstacle(host.conn, host.virt_type, {"soft_limit": 16}):
        pytest.skip(f"no control group for memory: {told}")
    server = define(memory={"soft_limit": 20})
    guest.start(host.conn, server)
    assert memory.limited_mib(host.conn, server) == soft_limit(server) == 20
    for _ in range(2):
        memory.limit(host.conn, server, 24)
        assert memory.limited_mib(host.conn, server) == soft_limit(server) == 24
    memory.limit(host.conn, server, None)
    assert memory.limited_mib(host.conn, server) is None
    assert soft_limit(server) is None


@on_the_lab
def test_a_guest_stays_on_its_nodes(host: "Host", define: "Definer") -> None:
    there = cpu.nodes(host.conn)
    fine = cpu.placed(host.conn, {"nodes": "0", "limit": 50})
    assert fine == {"limit": 50, "pin": tuning.cpu_set(there[0])}
    server = define(cpu=fine, memory={"nodes": "0"})
    guest.start(host.conn, server)
    told = host.conn.lookupByUUIDString(str(server)).numaParameters(0)
    assert (told["numa_mode"], told["numa_nodeset"]) == (0, "0")
    assert set(cpu.tuned(host.conn, server).pins) == {there[0]}
    absent = define(memory={"nodes": "63"})
    with pytest.raises(NotSupported, match="NUMA node 63 is unavailable"):
        guest.start(host.conn, absent)


@on_the_lab
def test_a_guest_without_a_balloon(host: "Host", define: "Definer") -> None:
    server = define(memory={"balloon": False})
    guest.start(host.conn, server)
    document = parse(host.conn.lookupByUUIDString(str(server)).XMLDesc(0))
    assert [one.get("model") for one in document.iterfind("devices/memballoon")] == ["none"]


def test_a_host_tells_its_nodes(host: "Host") -> None:
    there = cpu.nodes(host.conn)
    assert 0 in there[0]
    assert cpu.placed(host.conn, {"limit": 5}) == {"limit": 5}
    with pytest.raises(InvalidRequest, match="no NUMA node 63: it has 0"):
        cpu.placed(host.conn, {"nodes": "0,63"})


def test_a_host_tells_its_memory(host: "Host") -> None:
    assert {2, 1024} >= memory.pages(host.conn).keys()
    assert memory.pages_on(host.conn).keys() == cpu.nodes(host.conn).keys()
    if host.real:
        total, spare = memory.available_mib(host.conn)
        assert 0 < spare <= total
