"""What needs a guest that really runs: its agent, its shutdown, its clock, a full pool."""

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu
import pytest

from innkeeper.hypervisor import emulator, guest, network, shape, storage, suspension
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.emulator import EmulatorFull
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.hypervisor.events import AgentChanged, DiskError, Event, PowerChanged, watch
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.lab.images import ensure_image

if TYPE_CHECKING:
    from tests.contract.conftest import RunningLab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

POOL = "booted"
NETWORK = "innkeeper-booted"
MAC = "52:54:00:00:b0:01"
ADDRESS = "10.99.11.5"
SMALL = "small"
SMALL_PATH = "/var/lib/libvirt/images/small"
MIB = 1024 * 1024
BOOT_SECONDS = 90.0


@dataclass(frozen=True)
class Booted:
    """A tiny guest with a data disk in a pool of 32 MiB."""

    uri: str
    server: UUID
    events: "queue.SimpleQueue[Event]"

    @property
    def conn(self) -> libvirt.virConnect:
        return connect(self.uri)

    def agent(self, command: str, **arguments: Any) -> Any:
        domain = self.conn.lookupByUUIDString(str(self.server))
        said = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(domain, said, 10, 0))["return"]

    def run(self, *argv: str) -> None:
        job = self.agent("guest-exec", path=argv[0], arg=argv[1:])
        eventually(lambda: bool(self.agent("guest-exec-status", pid=job["pid"])["exited"]), 20)

    def run_up(self) -> None:
        guest.start(self.conn, self.server)
        eventually(lambda: guest.agent_ping(self.conn, self.server), BOOT_SECONDS)


def eventually(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def booted(running_lab: "RunningLab") -> Iterator[Booted]:
    conn = connect(running_lab.host.uri)
    storage.ensure_pool(conn, POOL, Path(running_lab.host.pool_path) / "booted")
    running_lab.lab.exec(running_lab.host.name, ["mkdir", "-p", SMALL_PATH])
    running_lab.lab.exec(
        running_lab.host.name, ["mount", "-t", "tmpfs", "-o", "size=32m", "small", SMALL_PATH]
    )
    storage.ensure_pool(conn, SMALL, SMALL_PATH)
    network.ensure_network(conn, NETWORK, "ik-booted", "10.99.11.1/24")
    network.ensure_dhcp_host(conn, NETWORK, MAC, ADDRESS, "booted")
    server = _define(conn)
    found = Booted(running_lab.host.uri, server, queue.SimpleQueue())
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(found.uri, found.events.put, stop))
    watcher.start()
    yield found
    stop.set()
    watcher.join()
    conn = connect(found.uri)
    guest.destroy(conn, server)
    guest.undefine(conn, server)
    conn.networkLookupByName(NETWORK).destroy()
    conn.networkLookupByName(NETWORK).undefine()
    for name in (POOL, SMALL):
        for volume in storage.volume_names(conn, name):
            storage.delete_volume(conn, name, volume)
        conn.storagePoolLookupByName(name).destroy()
        conn.storagePoolLookupByName(name).undefine()
    running_lab.lab.exec(running_lab.host.name, ["umount", SMALL_PATH])


def _define(conn: libvirt.virConnect) -> UUID:
    base = storage.upload(conn, POOL, "tiny.qcow2", ensure_image("tiny"), "qcow2", private=False)
    spec = DomainSpec(
        server_id=uuid4(),
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"ik-booted-{uuid4().hex[:8]}",
        vcpus=1,
        max_vcpus=2,
        memory_mib=192,
        virt_type="qemu",
        disks=(
            DiskSpec(storage.ensure_volume(conn, POOL, "root.qcow2", 3 * 2**30, base)),
            DiskSpec(storage.ensure_volume(conn, SMALL, "data.qcow2", 200 * MIB), "vdb"),
        ),
        nics=(NicSpec(NETWORK, MAC),),
        console_log_path=base.parent / "console.log",
    )
    # A cache of translated code so small that it is full every other second.
    xml = domain_xml(spec).replace('<tb-cache unit="MiB">256<', '<tb-cache unit="MiB">16<')
    assert ">16<" in xml
    guest.define(conn, xml)
    return spec.server_id


def _expect(booted: Booted, wanted: Callable[[Event], bool], within: float) -> Event:
    deadline = time.monotonic() + within
    while True:
        event = booted.events.get(timeout=max(0.01, deadline - time.monotonic()))
        if wanted(event):
            return event


def test_the_agent_connects_and_is_told(booted: Booted) -> None:
    booted.run_up()
    _expect(booted, lambda event: event == AgentChanged(booted.server, connected=True), 10)


def test_the_guest_gets_the_address_that_is_kept(booted: Booted) -> None:
    booted.run_up()
    eventually(lambda: bool(network.leases(booted.conn, NETWORK)), 30)
    (lease,) = network.leases(booted.conn, NETWORK)
    assert (lease.mac, lease.ip) == (MAC, ADDRESS)


def test_the_clock_is_set_after_a_sleep(booted: Booted) -> None:
    booted.run_up()
    booted.run("/bin/date", "-s", "@1000000000")
    assert _clock_error(booted) > 60
    guest.set_clock(booted.conn, booted.server)
    assert _clock_error(booted) < 5


def _clock_error(booted: Booted) -> float:
    return abs(float(booted.agent("guest-get-time")) / 1e9 - time.time())


def test_a_saved_guest_goes_on_where_it_stood(booted: Booted) -> None:
    booted.run_up()
    before = booted.agent("guest-get-time")
    suspension.save(booted.conn, booted.server)
    assert suspension.is_saved(booted.conn, booted.server)
    time.sleep(3)
    guest.start(booted.conn, booted.server)
    assert not suspension.is_saved(booted.conn, booted.server)
    eventually(lambda: guest.agent_ping(booted.conn, booted.server), 20)
    assert float(booted.agent("guest-get-time")) > float(before), "it did not boot anew"
    guest.set_clock(booted.conn, booted.server)
    assert _clock_error(booted) < 2


def test_a_vcpu_is_plugged_in_when_the_emulator_has_room_and_ends_no_guest(booted: Booted) -> None:
    booted.run_up()
    churn = "while :; do echo 3 > /proc/sys/vm/drop_caches; ls -lR /usr; done"
    booted.agent("guest-exec", path="/bin/sh", arg=["-c", churn])
    room: list[int] = []

    def told() -> int:
        room.append(emulator.pluggable_vcpus(booted.conn, booted.server) or 0)
        return room[-1]

    def refused() -> bool:
        try:
            emulator.require_room(booted.conn, booted.server, 1)
        except EmulatorFull:
            return True
        return False

    def plugged() -> bool:
        with contextlib.suppress(EmulatorFull):
            shape.plug_vcpus(booted.conn, booted.server, 2)
        return shape.vcpus(booted.conn, booted.server) == 2

    eventually(refused, 60)
    eventually(lambda: told() > 0, 60)
    eventually(plugged, 60)
    assert guest.agent_ping(booted.conn, booted.server)
    assert max(room) < 8, "one region is the guest's"


def test_stop_uses_the_agent_when_it_answers(booted: Booted) -> None:
    booted.run_up()
    assert guest.stop(booted.conn, booted.server, agent_seconds=40, acpi_seconds=0) == "agent"
    _expect(
        booted,
        lambda event: event == PowerChanged(booted.server, PowerState.OFF, "shutdown"),
        10,
    )


def test_stop_presses_the_power_button_until_a_booting_guest_hears_it(booted: Booted) -> None:
    guest.start(booted.conn, booted.server)
    assert guest.stop(booted.conn, booted.server, agent_seconds=0, acpi_seconds=60) == "acpi"


def test_a_full_pool_pauses_the_guest_and_is_named(booted: Booted) -> None:
    booted.run_up()
    booted.agent(
        "guest-exec", path="/bin/dd", arg=["if=/dev/urandom", "of=/dev/vdb", "bs=1M", "count=150"]
    )
    event = _expect(booted, lambda event: isinstance(event, DiskError), 90)
    assert isinstance(event, DiskError)
    assert (event.server_id, event.reason, event.paused) == (booted.server, "enospc", True)
    assert guest.power_state(booted.conn, booted.server) is PowerState.PAUSED
    assert guest.disk_errors(booted.conn, booted.server) == {"vdb": "no space"}
    with pytest.raises(PoolFull, match="no space left"):
        guest.start(booted.conn, booted.server)
    with pytest.raises(PoolFull, match="free space"):
        storage.upload(booted.conn, SMALL, "seed.iso", b"x" * 4 * MIB, "raw")
    assert storage.volume_names(booted.conn, SMALL) == ["data.qcow2"]
    assert guest.stop(booted.conn, booted.server, 30, 30) == "force"
