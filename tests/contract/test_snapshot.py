"""Snapshots on a guest that really runs, and what the test driver makes of the same calls."""

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu
import pytest

from innkeeper.domain.naming import overlay, root_volume
from innkeeper.errors import InnkeeperError
from innkeeper.host import layers
from innkeeper.host.local import LocalChannel
from innkeeper.hypervisor import blockjob, cpu, guest, snapshot, storage, suspension
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import AgentUnavailable
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, domain_xml
from innkeeper.lab.images import ensure_image

if TYPE_CHECKING:
    from tests.contract.conftest import Definer, Host, RunningLab

POOL = "frozen"
DISK_BYTES = 3 << 30
BOOT_SECONDS = 90.0


def eventually(reached: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)


@dataclass
class Booted:
    """A tiny guest, and ways to look inside without a network."""

    uri: str
    pool_path: Path
    base: Path
    server: UUID = field(default_factory=uuid4)
    top: str = ""

    @property
    def conn(self) -> libvirt.virConnect:
        return connect(self.uri)

    def agent(self, command: str, **arguments: Any) -> Any:
        domain = self.conn.lookupByUUIDString(str(self.server))
        said = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(domain, said, 20, 0))["return"]

    def sh(self, script: str, *, wait: bool = True) -> str:
        asked = {"path": "/bin/sh", "arg": ["-c", script], "capture-output": wait}
        job = self.agent("guest-exec", **asked)
        if not wait:
            return ""
        found: dict[str, Any] = {}

        def ended() -> bool:
            found.update(self.agent("guest-exec-status", pid=job["pid"]))
            return bool(found["exited"])

        eventually(ended, 30)
        return base64.b64decode(found.get("out-data", "")).decode().strip()

    def define(self, top: str, firmware: str = "bios", **fields: Any) -> None:
        spec = DomainSpec(
            server_id=self.server,
            project_id=uuid4(),
            operation_id=uuid4(),
            name=f"ik-frozen-{self.server.hex[:8]}",
            vcpus=1,
            memory_mib=192,
            virt_type="qemu",
            disks=(DiskSpec(self.pool_path / top),),
            firmware="uefi" if firmware == "uefi" else "bios",
            **fields,
        )
        guest.define(self.conn, domain_xml(spec))
        self.top = top

    def up(self) -> None:
        guest.start(self.conn, self.server)
        eventually(lambda: guest.agent_ping(self.conn, self.server), BOOT_SECONDS)

    def layer(self) -> str:
        name = overlay(self.top, uuid4())
        path = self.pool_path / self.top
        storage.ensure_volume(self.conn, POOL, name, DISK_BYTES, path)
        return name

    def freeze(self, **how: Any) -> tuple[str, str]:
        """Take a snapshot; return the frozen file and the one above it."""
        frozen, above = self.top, self.layer()
        begun = time.monotonic()
        snapshot.capture(self.conn, self.server, self.pool_path / above, **how)
        print(f"capture {how or ''} in {time.monotonic() - begun:.2f} s")  # noqa: T201
        self.top = above
        return frozen, above

    def leans(self, name: str) -> str:
        found = storage.leans_on(self.conn, POOL, name)
        return found.name if found else ""


def quiet(_fraction: float) -> None:
    """Tell nobody how far a job is."""


@pytest.fixture(scope="module")
def booted(running_lab: "RunningLab") -> Iterator[Booted]:
    uri = running_lab.host.uri
    conn = connect(uri)
    pool_path = Path(running_lab.host.pool_path) / "frozen"
    storage.ensure_pool(conn, POOL, pool_path)
    base = storage.upload(conn, POOL, "tiny.qcow2", ensure_image("tiny"), "qcow2", private=False)
    found = Booted(uri, pool_path, base)
    root = root_volume(found.server)
    storage.ensure_volume(conn, POOL, root, DISK_BYTES, base)
    found.define(root)
    begun = time.monotonic()
    found.up()
    print(f"booted in {time.monotonic() - begun:.1f} s")  # noqa: T201
    yield found
    guest.destroy(conn, found.server)
    guest.undefine(conn, found.server)
    for volume in storage.volume_names(conn, POOL):
        storage.delete_volume(conn, POOL, volume)
    conn.storagePoolLookupByName(POOL).destroy()
    conn.storagePoolLookupByName(POOL).undefine()


def test_the_test_driver_has_a_root_disk_and_no_agent(host: "Host", define: "Definer") -> None:
    server = define()
    assert snapshot.root_disk(host.conn, server).name == f"{server}-root.qcow2"
    assert not snapshot.is_active(host.conn, server)
    assert not snapshot.thaw(host.conn, server)
    assert not snapshot.is_active(host.conn, uuid4())
    snapshot.wake_on(host.conn, server, Path("/none"))  # it is not saved: nothing to do


def test_what_leans_on_what(host: "Host") -> None:
    base = storage.ensure_volume(host.conn, "innkeeper", "base.qcow2", 1 << 20)
    above = storage.ensure_volume(host.conn, "innkeeper", "above.qcow2", 1 << 20, base)
    assert storage.leans_on(host.conn, "innkeeper", "base.qcow2") is None
    assert storage.leans_on(host.conn, "innkeeper", above.name) == base
    assert storage.leaning(host.conn, "innkeeper", "base.qcow2") == ["above.qcow2"]
    assert storage.leaning(host.conn, "innkeeper", "none") == []
    sizes = storage.allocated(host.conn, "innkeeper", ["base.qcow2", "none"])
    assert set(sizes) == {"base.qcow2"}


@pytest.mark.lab
@pytest.mark.timeout(600)
class TestRunning:
    """One guest; each test leaves it running on whatever it calls its top."""

    def test_quiesced_and_back_to_it(self, booted: Booted) -> None:
        booted.sh("echo before > /root/before; sync")
        frozen, _ = booted.freeze(quiesce=True)
        assert booted.agent("guest-fsfreeze-status") == "thawed"
        assert str(booted.pool_path / booted.top) in booted.conn.lookupByUUIDString(
            str(booted.server)
        ).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), "the definition follows"
        booted.sh("echo after > /root/after; sync")
        guest.destroy(booted.conn, booted.server)
        old, booted.top = booted.top, frozen
        booted.define(booted.layer())
        storage.delete_volume(booted.conn, POOL, old)
        booted.up()
        assert booted.sh("cd /root; ls before after 2>/dev/null") == "before"

    def test_a_frozen_guest_answers_and_is_thawed(self, booted: Booted) -> None:
        domain = booted.conn.lookupByUUIDString(str(booted.server))
        domain.fsFreeze()
        assert booted.agent("guest-fsfreeze-status") == "frozen"
        assert snapshot.thaw(booted.conn, booted.server)
        assert booted.agent("guest-fsfreeze-status") == "thawed"
        assert snapshot.thaw(booted.conn, booted.server), "and again, for nothing"

    def test_memory_goes_on_where_it_was(self, booted: Booted) -> None:
        booted.sh("ln -sf /usr/bin/busybox /usr/sbin/hwclock")  # the agent calls it
        script = "n=0; while :; do n=$((n+1)); echo $n > /dev/shm/count; sleep 0.2; done"
        booted.sh(script, wait=False)
        eventually(lambda: booted.sh("cat /dev/shm/count") > "", 10)
        memory = booted.pool_path / "one.mem"
        frozen, _ = booted.freeze(memory=memory)
        assert guest.power_state(booted.conn, booted.server) is PowerState.RUNNING
        count = int(booted.sh("cat /dev/shm/count"))
        booted.sh("echo later > /root/later; sync")
        time.sleep(2)
        assert int(booted.sh("cat /dev/shm/count")) > count + 3
        for fine in ({"limit": 90, "pin": "1"}, {}):  # as often as one likes
            guest.destroy(booted.conn, booted.server)
            old, booted.top = booted.top, frozen
            booted.define(booted.layer(), cpu=fine)
            storage.delete_volume(booted.conn, POOL, old)
            begun = time.monotonic()
            snapshot.restore(booted.conn, memory, booted.pool_path / booted.top, "none")
            there = cpu.tuned(booted.conn, booted.server)
            today = (True, ((1,),)) if fine else (False, ((0, 1),))
            assert (there.quota == 90_000, there.pins) == today, "not what was saved"
            print(f"restored in {time.monotonic() - begun:.2f} s")  # noqa: T201
            assert snapshot.root_disk(booted.conn, booted.server).name == booted.top
            eventually(lambda: guest.agent_ping(booted.conn, booted.server), 20)
            guest.set_clock(booted.conn, booted.server)
            now = float(booted.agent("guest-get-time")) / 1e9
            assert abs(now - time.time()) < 3
            assert booted.sh("ls /root/later 2>/dev/null") == ""
            again = int(booted.sh("cat /dev/shm/count"))
            assert count - 3 <= again <= count + 60, "the same process counts on"
        assert "one.mem" in storage.volume_names(booted.conn, POOL), "the audit sees it"
        assert booted.leans(booted.top) == frozen

    def test_a_paused_guest_is_frozen_where_it_stands(self, booted: Booted) -> None:
        count = int(booted.sh("cat /dev/shm/count"))
        suspension.pause(booted.conn, booted.server)
        for _ in range(2):
            frozen, above = booted.freeze()
            assert guest.power_state(booted.conn, booted.server) is PowerState.PAUSED
            assert booted.leans(above) == frozen
        blockjob.commit_top(booted.conn, booted.server, booted.pool_path / frozen, quiet)
        storage.delete_volume(booted.conn, POOL, above)
        booted.top = frozen
        assert guest.power_state(booted.conn, booted.server) is PowerState.PAUSED
        guest.start(booted.conn, booted.server)
        assert int(booted.sh("cat /dev/shm/count")) <= count + 30, "it stood still"

    def test_a_memory_of_a_paused_guest_would_lame_it(self, booted: Booted) -> None:
        suspension.pause(booted.conn, booted.server)
        frozen, _ = booted.freeze(memory=booted.pool_path / "paused.mem")
        with pytest.raises(InnkeeperError, match="read-only"):  # so none is taken
            blockjob.commit_top(booted.conn, booted.server, booted.pool_path / frozen, quiet)
        with pytest.raises(InnkeeperError, match="paused due to previous migration"):
            suspension.save(booted.conn, booted.server)
        guest.start(booted.conn, booted.server)
        booted.sh("sync")

    def test_a_saved_guest_wakes_on_the_layer_that_it_was_given(self, booted: Booted) -> None:
        booted.sh("echo unwritten > /root/unwritten")  # in its memory only
        suspension.save(booted.conn, booted.server)
        frozen, above = booted.top, booted.layer()
        for _ in range(2):
            snapshot.wake_on(booted.conn, booted.server, booted.pool_path / above)
            booted.define(above)
        written = (booted.pool_path / frozen).stat().st_mtime_ns
        booted.up()
        assert snapshot.root_disk(booted.conn, booted.server).name == above
        assert booted.leans(above) == frozen
        booted.sh("sync; echo 3 > /proc/sys/vm/drop_caches")
        assert booted.sh("cat /root/unwritten") == "unwritten"
        assert (booted.pool_path / frozen).stat().st_mtime_ns == written, "nobody wrote to it"

    def test_without_that_it_would_write_to_the_frozen_file(self, booted: Booted) -> None:
        suspension.save(booted.conn, booted.server)
        frozen, above = booted.top, booted.layer()
        booted.define(above)
        booted.up()
        assert snapshot.root_disk(booted.conn, booted.server).name == frozen, "so we rewrite it"
        booted.define(frozen)
        storage.delete_volume(booted.conn, POOL, above)

    def test_layers_are_merged_while_it_writes(self, booted: Booted) -> None:
        first, _ = booted.freeze()
        booted.sh("dd if=/dev/urandom of=/root/data bs=1M count=8 2>/dev/null; sync")
        digest = booted.sh("sha256sum /root/data")
        second, _ = booted.freeze()
        booted.sh("echo above > /root/above; sync")
        third, top = booted.freeze()
        begun = time.monotonic()
        blockjob.commit(
            booted.conn,
            booted.server,
            booted.pool_path / second,
            booted.pool_path / first,
            quiet,
        )
        print(f"commit in {time.monotonic() - begun:.2f} s")  # noqa: T201
        assert booted.leans(third) == first
        storage.delete_volume(booted.conn, POOL, second)
        begun = time.monotonic()
        blockjob.pull(booted.conn, booted.server, booted.pool_path / first, quiet)
        print(f"pull in {time.monotonic() - begun:.2f} s")  # noqa: T201
        assert booted.leans(top) == first
        assert storage.leaning(booted.conn, POOL, third) == []
        storage.delete_volume(booted.conn, POOL, third)
        booted.sh("echo 3 > /proc/sys/vm/drop_caches")
        assert booted.sh("sha256sum /root/data; cat /root/above") == f"{digest}\nabove"

    def test_a_capture_is_undone_by_going_on_below(self, booted: Booted) -> None:
        frozen, above = booted.freeze()
        booted.sh("echo undone > /root/undone; sync")
        blockjob.commit_top(booted.conn, booted.server, booted.pool_path / frozen, quiet)
        booted.top = frozen
        assert snapshot.root_disk(booted.conn, booted.server).name == frozen
        storage.delete_volume(booted.conn, POOL, above)
        assert booted.sh("cat /root/undone") == "undone"

    def test_without_an_agent_a_demand_fails_and_nothing_happens(self, booted: Booted) -> None:
        booted.sh("sync")
        booted.sh("sleep 0.5; killall -STOP qemu-ga", wait=False)
        eventually(lambda: not guest.agent_ping(booted.conn, booted.server), 10)
        layer = booted.layer()
        with pytest.raises((AgentUnavailable, InnkeeperError)):
            snapshot.capture(booted.conn, booted.server, booted.pool_path / layer, quiesce=True)
        assert snapshot.root_disk(booted.conn, booted.server).name == booted.top
        assert not snapshot.thaw(booted.conn, booted.server)
        storage.delete_volume(booted.conn, POOL, layer)
        booted.freeze()

    def test_stopped_files_are_merged_by_qemu_img(self, booted: Booted) -> None:
        guest.destroy(booted.conn, booted.server)
        channel, path = LocalChannel(), booted.pool_path
        below = booted.leans(booted.top)
        middle = booted.layer()
        booted.top = middle
        top = booted.layer()
        booted.define(top)
        layers.rebase(channel, path / top, path / below)
        assert booted.leans(top) == below
        layers.repoint(channel, path / top, path / middle)
        assert booted.leans(top) == middle
        layers.commit(channel, path / top)
        booted.up()
        assert booted.sh("cat /root/before") == "before"
        with pytest.raises(InnkeeperError, match="another process"):
            layers.rebase(channel, path / top, path / below)
        assert booted.leans(top) == middle
        subprocess.run(["sync"], check=False)


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_uefi_never_succeeds_without_a_snapshot(booted: Booted) -> None:
    uefi = Booted(booted.uri, booted.pool_path, booted.base)
    root = root_volume(uefi.server)
    storage.ensure_volume(uefi.conn, POOL, root, DISK_BYTES, uefi.base)
    try:
        uefi.define(root, "uefi")
        guest.start(uefi.conn, uefi.server)
        memory = uefi.pool_path / "uefi.mem"
        for how in ({}, {"memory": memory}):
            frozen, above = uefi.freeze(**how)
            assert uefi.leans(above) == frozen
            assert snapshot.root_disk(uefi.conn, uefi.server).name == above
        assert memory.stat().st_size > 1 << 20
    finally:
        with suppress(InnkeeperError):
            guest.destroy(uefi.conn, uefi.server)
            guest.undefine(uefi.conn, uefi.server)
