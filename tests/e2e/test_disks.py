"""Data disks in guests that tell what they see; the tests are one life, in their order."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.create_steps import seconds_between
from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect

DEATH_SECONDS = 120.0
PLACE = "/mnt/data"
FILE = f"{PLACE}/records"

TWIN = """
import os, sys
root, twin, place = open("/dev/vda", "rb"), open(sys.argv[1], "r+b"), 0
os.sync()
while part := root.read(4 << 20):
    if part.count(0) < len(part):
        twin.seek(place)
        twin.write(part.replace(b"rw quiet loglevel=3", b"rw qmark loglevel=3"))
    place += len(part)
twin.flush()
os.fsync(twin.fileno())
"""
"""Copies the root disk, with another word in what its boot loader tells the kernel."""


class Life:
    """Two servers on one host, and what is done to them."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        asked = [estate.create(unique("disk")) for _ in range(2)]
        self.one, self.two = (estate.done(operation) for operation in asked)
        assert self.one["host"] == self.two["host"], "small servers are placed together"

    def sh(self, server: Json, script: str) -> str:
        return self.estate.login(server, ["sudo", "sh", "-c", script], timeout=60.0).strip()

    def done(self, operation: Json) -> Json:
        begun = time.monotonic()
        server = self.estate.done(operation)
        told = "; ".join(
            f"{step['name']} {seconds_between(step['begun_at'], step['ended_at']):.2f} s: "
            f"{step['detail']}"
            for step in self.estate.operation(operation)["steps"]
        )
        took = time.monotonic() - begun
        print(f"{operation['verb']} in {took:.1f} s ({told})")  # noqa: T201 - measured
        assert self.estate.audit() == []
        return server

    def do(self, server: Json, verb: str, **body: Any) -> Json:
        return self.done(self.estate.act(server, verb, **body))

    def refused(self, server: Json, verb: str, **body: Any) -> str:
        """Return why an operation failed that should not succeed."""
        ended = self.estate.wait(self.estate.act(server, verb, **body))
        assert ended["phase"] == "failed"
        assert self.estate.audit() == []
        return str(ended["error"])

    def disk(self, name: str = "data") -> Json:
        found: Json = {e["name"]: e for e in self.estate.client.items("/disks")}[name]
        return found

    def seen(self, server: Json, name: str = "data") -> str:
        """Return where in its /sys a guest has a disk, if it has: here no udev makes links."""
        serial = self.disk(name)["device"].rpartition("-")[2]
        return self.sh(server, f"grep -l {serial} /sys/block/*/serial || true")

    def device(self, server: Json, name: str = "data") -> str:
        """Return the block device by which a guest knows a disk, once it has found it."""
        found = eventually(lambda: self.seen(server, name), what=f"disk {name} in the guest")
        return f"/dev/{found.split('/')[3]}"

    def libvirt_domain(self, server: Json) -> Any:
        conn = connect(self.estate.host(server["host"]).uri)
        return conn.lookupByUUIDString(server["id"])

    def mount(self, server: Json) -> None:
        self.sh(server, f"mkdir -p {PLACE}; mount -t ext4 {self.device(server)} {PLACE}")


@pytest.fixture(scope="module")
def life(estate: Estate) -> Life:
    estate.clear()
    return Life(estate)


def test_attached_live_as_planned_it_carries_a_file_to_another_server(life: Life) -> None:
    boots = [life.estate.boot_id(server) for server in (life.one, life.two)]
    wanted = {"name": "data", "size_gib": 1, "iops": 300, "throughput_mib": 20}
    path = f"/servers/{life.one['id']}/actions/attach-disk"
    plan = life.estate.client.post(path, wanted, dry_run=True)
    assert ([c["effect"] for c in plan["changes"]], plan["interruption"]) == (["live"], "none")
    life.done(life.estate.client.post(path, wanted, plan=plan["digest"]))
    tuned = life.libvirt_domain(life.one).blockIoTune("vdb")
    assert (tuned["total_iops_sec"], tuned["total_bytes_sec"]) == (300, 20 << 20)
    device = life.device(life.one)
    assert int(life.sh(life.one, f"cat /sys/block/{device.rpartition('/')[2]}/size")) == 2 << 20
    # With its path: the shell of busybox would take its own.
    life.sh(life.one, f"/usr/sbin/mke2fs -q -t ext4 {device}")
    life.mount(life.one)
    life.sh(life.one, f"dd if=/dev/urandom of={FILE} bs=1M count=8 2>/dev/null; sync")
    digest = life.sh(life.one, f"sha256sum {FILE}")

    assert f"mounted at {PLACE}" in life.refused(life.one, "detach-disk", disk="data")
    assert life.sh(life.one, f"sha256sum {FILE}") == digest, "nothing was taken away"
    with pytest.raises(CliFailure, match="detach it there first"):
        life.estate.act(life.two, "attach-disk", name="data")

    life.sh(life.one, f"umount {PLACE}")
    life.do(life.one, "detach-disk", disk="data")
    assert life.seen(life.one) == ""
    assert (life.disk()["phase"], life.disk()["server"]) == ("available", None)
    life.do(life.two, "attach-disk", name="data")
    life.mount(life.two)
    assert life.sh(life.two, f"sha256sum {FILE}") == digest
    assert [life.estate.boot_id(server) for server in (life.one, life.two)] == boots


def test_it_grows_with_the_file_system_on_it(life: Life) -> None:
    def size() -> int:
        return int(life.sh(life.two, f"df -k {PLACE} | awk 'END {{print $2}}'")) >> 10

    digest, before = life.sh(life.two, f"sha256sum {FILE}"), size()
    life.do(life.two, "grow-disk", disk="data", size_gib=2)
    assert before < 1024
    assert size() > 1800
    life.do(life.two, "grow-disk", disk="data", size_gib=3, expand="offline")
    assert size() < 2048
    device = life.device(life.two).rpartition("/")[2]
    assert int(life.sh(life.two, f"cat /sys/block/{device}/size")) == 3 << 21
    life.sh(life.two, "echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh(life.two, f"sha256sum {FILE}") == digest
    with pytest.raises(CliFailure, match="only grows"):
        life.estate.act(life.two, "grow-disk", disk="data", size_gib=2)


@pytest.fixture
def second(life: Life) -> Iterator[Path]:
    """Have another pool on the host, as its operator makes one; return its folder."""
    host = life.estate.host(life.two["host"])
    conn, folder = connect(host.uri), Path(host.pool_path).with_name("second")
    storage.ensure_pool(conn, "second", folder)
    life.estate.cli("host", "pools", host.name, "second=3")
    yield folder
    life.estate.cli("host", "pools", host.name)
    pool = connect(host.uri).storagePoolLookupByName("second")
    pool.destroy()
    pool.undefine()


def test_it_is_there_after_a_stop_a_rebuild_and_a_night(life: Life, second: Path) -> None:
    digest = life.sh(life.two, f"sha256sum {FILE}")
    life.do(life.two, "stop")
    more = {"name": "more", "format": "raw", "read_only": True, "pool": "second"}
    with pytest.raises(CliFailure, match=r"Pool 'second' of host .*4 more GiB .*3 free"):
        life.estate.act(life.two, "attach-disk", size_gib=4, **more)
    life.do(life.two, "attach-disk", size_gib=1, **more)
    assert [path.suffix for path in second.iterdir()] == [".raw"]
    life.do(life.two, "grow-disk", disk="more", size_gib=2)
    life.do(life.two, "rebuild")
    life.mount(life.two)
    assert life.sh(life.two, f"sha256sum {FILE}") == digest
    device = life.device(life.two, "more").rpartition("/")[2]
    told = life.sh(life.two, f"cat /sys/block/{device}/size /sys/block/{device}/ro")
    assert told.split() == [str(2 << 21), "1"]
    life.do(life.two, "suspend")
    life.do(life.two, "resume")
    life.sh(life.two, "echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh(life.two, f"sha256sum {FILE}") == digest
    asleep = {"name": "asleep", "memory": True}
    with pytest.raises(CliFailure, match=r"data disks \(data, more\) and cannot snapshot with"):
        life.estate.client.post(f"/servers/{life.two['id']}/snapshots", asleep)
    life.do(life.two, "detach-disk", disk="more", keep=False)
    assert list(second.iterdir()) == []
    life.sh(life.two, f"umount {PLACE}")


def test_a_server_boots_from_the_disk_that_is_first(life: Life) -> None:
    life.do(life.two, "attach-disk", name="boot", size_gib=2, boot_order=1)
    assert "qmark" not in life.sh(life.two, "cat /proc/cmdline")
    life.sh(life.two, f"cat > /root/twin.py <<'END'\n{TWIN}\nEND")
    life.sh(life.two, f"python3 /root/twin.py {life.device(life.two, 'boot')}")
    life.do(life.two, "reboot")
    assert "qmark" in life.sh(life.two, "cat /proc/cmdline"), "the copy's own words"
    life.do(life.two, "detach-disk", disk="boot", keep=False)


@pytest.mark.parametrize(
    ("verb", "step", "body"),
    [
        ("attach-disk", "plug-disk", {"name": "second", "size_gib": 1}),
        ("detach-disk", "unplug-disk", {"disk": "second", "keep": False}),
    ],
    ids=["attach", "detach"],
)
def test_a_killed_run_is_resumed(life: Life, verb: str, step: str, body: Json) -> None:
    boot = life.estate.boot_id(life.one)
    with life.estate.dying(verb, f"{step}-after"):
        life.do(life.one, verb, **body)
    there = [disk["name"] for disk in life.estate.server(life.one)["disks"]]
    assert there == (["second"] if verb == "attach-disk" else [])
    assert life.estate.boot_id(life.one) == boot


def test_a_kept_disk_outlives_its_server(life: Life) -> None:
    life.do(life.two, "detach-disk", disk="data")
    life.do(life.one, "attach-disk", name="data", delete_on_server_delete=False)
    life.mount(life.one)
    digest = life.sh(life.one, f"sha256sum {FILE}; sync")
    life.do(life.one, "delete")
    assert life.disk()["phase"] == "available"
    life.do(life.two, "attach-disk", name="data")
    life.mount(life.two)
    assert life.sh(life.two, f"sha256sum {FILE}") == digest
    with pytest.raises(CliFailure, match="detach it first"):
        life.estate.client.delete(f"/disks/{life.disk()['id']}")
    life.do(life.two, "delete")
    life.estate.client.delete(f"/disks/{life.disk()['id']}")
    assert list(life.estate.client.items("/disks")) == []
    assert life.estate.audit() == []
