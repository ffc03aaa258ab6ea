"""To the other host with all that a server has: snapshots and data disks; one life.

That a bare server moves, and how it is killed and cancelled then, is in test_migration.py.
"""

import time

import pytest

from e2e.estate import Estate, eventually
from e2e.faults import FULL, resize, small_pool
from e2e.test_migration import LOOP
from e2e.test_migration import Life as Moving
from e2e.test_snapshots import CHECK, WRITER
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.hypervisor import storage
from innkeeper.lab.layout import HostLayout

PLACE = "/mnt/data"
NOISE_AT = (3, 900)
"""In MiB of a raw disk; the rest are holes."""

__all__ = ["small_pool"]


class Life(Moving):
    """The server of these tests and what is done to it."""

    def contents(self) -> str:
        """Return the checksums of what was put onto the data disks."""
        parts = [
            f"dd if={self.device(name)} bs=1M skip={place} count=5 2>/dev/null | sha256sum"
            for name in ("raw", "fixed")
            for place in NOISE_AT
        ]
        return self.sh("; ".join([f"sha256sum {PLACE}/noise", *parts]))

    def raw_bytes(self) -> int:
        """Return what the raw disk really takes of its host."""
        name = f"{self.disks()['raw']['id']}-data.raw"
        return storage.allocated(self.conn, POOL, [name])[name]

    def records(self) -> int:
        return int(self.sh(f"cat {PLACE}/records 2>/dev/null | wc -l"))

    def all_on(self, home: str, files: int) -> None:
        """Assert that so many files are on one host, lean on files there, and nothing elsewhere."""
        assert (self.server["status"], self.server["host"]) == ("active", home)
        found = self.files(home)
        assert len(found) == files, found
        pool = self.estate.layout(home).pool
        assert {below.parent for below in found.values() if below} == {pool}
        others = [host.name for host in self.estate.lab.hosts() if host.name != home]
        assert [self.traces(name) for name in others] == [[] for _ in others]
        for host in (home, *others):
            names = self.pool(host)
            there = {name for name in names if disk_of(name)}
            wanted = {disk["id"] for disk in self.disks().values()} if host == home else set()
            assert {name[:36] for name in there} == wanted
        assert {disk["host"] for disk in self.disks().values()} <= {home}
        assert len(self.estate.qemu(self.server)) == 1
        assert self.estate.audit() == []


@pytest.fixture(scope="module")
def life(estate: Estate) -> Life:
    estate.clear()
    found = Life(estate)
    found.sh("ln -sf /usr/bin/busybox /usr/sbin/hwclock")  # the agent calls it
    found.sh(f"echo '{LOOP}' > /root/loop")
    found.background("sh /root/loop")
    estate.boot_id(found.server)  # Linux makes it when it is first read
    for name in ("one", "two", "three"):
        found.sh(f"dd if=/dev/urandom of=/root/{name} bs=1M count=4 2>/dev/null; sync")
        found.take(name, memory=name == "two")
    return found


def test_snapshots_go_along_live_and_are_of_use_there(life: Life) -> None:
    boot, count, target = life.estate.boot_id(life.server), life.count(), life.other
    sums = life.sh("cd /root; sha256sum one two three")
    life.migrate(mode="live")
    life.all_on(target, 2 + 3 + 1)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh("cd /root; sha256sum one two three") == sums
    life.to("three", "verify")
    assert life.find("three")["verification"] == "verified"
    life.forget("one")  # in the middle of what the guest has open
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh("cd /root; sha256sum one two three") == sums
    life.to("two", "revert")  # a memory of the other host
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(life.count())
    assert life.sh("cd /root; ls one two three 2>/dev/null; true").split() == ["one", "two"]
    assert abs(float(life.sh("date +%s")) - time.time()) < 5
    life.all_on(target, 2 + 2 + 1)


def test_data_disks_go_along_live_though_workers_are_killed(life: Life) -> None:
    life.attach("data", iops=300)
    life.attach("raw", format="raw")
    life.attach("fixed", format="raw")
    for name in ("raw", "fixed"):  # with holes
        noise = f"dd if=/root/one of={life.device(name)} bs=1M 2>/dev/null"
        life.sh("; ".join([*(f"{noise} seek={place}" for place in NOISE_AT), "sync"]))
    life.done("detached", life.estate.act(life.server, "detach-disk", disk="fixed"))
    life.done(
        "read-only", life.estate.act(life.server, "attach-disk", name="fixed", read_only=True)
    )
    life.sh(f"/usr/sbin/mke2fs -q -t ext4 {life.device('data')}")
    life.sh(f"mkdir -p {PLACE}; mount -t ext4 {life.device('data')} {PLACE}")
    life.sh(f"dd if=/dev/urandom of={PLACE}/noise bs=1M count=8 2>/dev/null; sync")
    for name, script in (("writer", WRITER), ("check", CHECK)):
        text = script.replace("/root/records", f"{PLACE}/records")
        life.sh(f"cat > /root/{name}.py <<'END'\n{text}\nEND")
    life.background("python3 /root/writer.py")
    eventually(life.records, what="records")
    before, boot, count = life.contents(), life.estate.boot_id(life.server), life.count()
    home, target, written = life.server["host"], life.other, life.records()
    operation = life.estate.killed(
        "migrate",
        "carry-data-disks-after",
        lambda: life.estate.act(life.server, "migrate", mode="live"),
    )
    life.slowly(home, 8)
    life.estate.start_worker()
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    life.estate.kill_worker()
    life.slowly(home, 1000)
    life.done("resumed", operation)
    life.all_on(target, 2 + 2 + 1)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)
    eventually(lambda: life.records() > written, what="more records, on the disk that moved")
    life.sh("pkill -f writer.py; sync; echo 3 > /proc/sys/vm/drop_caches")
    assert int(life.sh("python3 /root/check.py")) > written
    assert life.contents() == before
    assert life.sh(f"echo x 2>/dev/null > {life.device('fixed')} || echo refused") == "refused"
    tuned = life.conn.lookupByUUIDString(life.id).blockIoTune("vdb")
    assert tuned["total_iops_sec"] == 300
    assert life.raw_bytes() < 64 << 20, "holes are holes"


def test_undone_for_want_of_room_and_on_request_all_is_where_it_was(
    life: Life, small_pool: HostLayout
) -> None:
    boot, home, count = life.estate.boot_id(life.server), life.server["host"], life.count()
    files, contents, before = life.files(home), life.contents(), life.server
    resize(small_pool, "110m")  # for the image, and not much more
    body = {"mode": "live", "host": FULL}
    ended = life.estate.wait(life.estate.act(life.server, "migrate", **body))
    assert ended["phase"] == "failed"
    assert "free space there, or choose another host" in ended["error"]
    resize(small_pool, "700m")
    life.slowly(home, 4)
    operation = life.estate.act(life.server, "migrate", **body)
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    life.estate.client.post(f"/operations/{operation['id']}/cancel")
    assert life.estate.wait(operation)["phase"] == "cancelled"
    life.slowly(home, 1000)
    life.server = life.estate.server(before)
    assert life.files(home) == files
    life.all_on(home, 2 + 2 + 1)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert life.contents() == contents


def test_cold_with_all_it_has(life: Life) -> None:
    target, before = life.other, life.contents()
    life.sh(f"umount {PLACE}; sync")
    life.migrate(mode="cold", allow_power_cycle=True, host=target)
    life.all_on(target, 2 + 2 + 1)
    life.sh(f"mount -t ext4 {life.device('data')} {PLACE}")
    assert life.contents() == before
    assert life.raw_bytes() < 64 << 20, "holes are holes"
    life.forget("two")
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh("cd /root; ls one two three 2>/dev/null; true").split() == ["one", "two"]
    life.all_on(target, 2 + 1)
