"""To the other host with all that a server has: snapshots; one life, in its order.

That a bare server moves, and how it is killed and cancelled then, is in test_migration.py.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.estate import Estate, eventually
from e2e.test_faults import FULL, resize, small_pool
from e2e.test_migration import LOOP
from e2e.test_migration import Life as Moving
from innkeeper.cli.client import Json
from innkeeper.domain.naming import POOL
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.lab.layout import HostLayout

__all__ = ["small_pool"]


class Life(Moving):
    """The server of these tests and what is done to it."""

    @property
    def path(self) -> str:
        return f"/servers/{self.server['id']}/snapshots"

    def find(self, name: str) -> Json:
        return next(s for s in self.estate.client.items(self.path) if s["name"] == name)

    def take(self, name: str, **fields: Any) -> None:
        self.done(name, self.estate.client.post(self.path, {"name": name, **fields}))

    def to(self, name: str, verb: str) -> None:
        """Revert to, or verify, a snapshot."""
        path = f"{self.path}/{self.find(name)['id']}/actions/{verb}"
        self.done(verb, self.estate.client.post(path))

    def forget(self, name: str) -> None:
        self.done("merged", self.estate.client.delete(f"{self.path}/{self.find(name)['id']}"))

    def files(self, name: str) -> dict[str, Path | None]:
        """Return the server's files on a host, and what each leans on."""
        conn, names = connect(self.estate.host(name).uri), self.traces(name)
        return {n: storage.leans_on(conn, POOL, n) for n in names if n.startswith(self.id)}

    @property
    def id(self) -> str:
        return str(self.server["id"])

    def all_on(self, home: str, files: int) -> None:
        """Assert that so many files are on one host, lean on files there, and nothing elsewhere."""
        assert (self.server["status"], self.server["host"]) == ("active", home)
        found = self.files(home)
        assert len(found) == files, found
        pool = self.estate.layout(home).pool
        assert {below.parent for below in found.values() if below} == {pool}
        assert self.traces(self.other) == []
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


@pytest.fixture(autouse=True)
def _with_worker(estate: Estate) -> Iterator[None]:
    """End a test with the stack's own worker, whatever happened."""
    yield
    estate.end_doomed()
    estate.start_worker()


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


def test_a_worker_killed_while_frozen_files_are_copied_or_the_guest_moves(life: Life) -> None:
    boot, count = life.estate.boot_id(life.server), life.count()
    home, target = life.server["host"], life.other
    life.estate.stop_worker()
    operation = life.estate.act(life.server, "migrate", mode="live")
    life.killed("carry-snapshots", "after", operation)
    life.slowly(home, 8)
    life.estate.start_worker()
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    life.estate.kill_worker()
    life.done("resumed", operation)
    life.all_on(target, 2 + 2 + 1)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)


def test_a_pool_that_has_no_room_for_the_snapshots(life: Life, small_pool: HostLayout) -> None:
    boot, home, count = life.estate.boot_id(life.server), life.server["host"], life.count()
    files = life.files(home)
    resize(small_pool, "110m")  # for the image, and not much more
    body = {"mode": "live", "host": FULL}
    ended = life.estate.wait(life.estate.act(life.server, "migrate", **body))
    assert ended["phase"] == "failed"
    assert "free space there, or choose another host" in ended["error"]
    life.server = life.estate.server(life.server)
    assert life.files(home) == files
    life.all_on(home, 2 + 2 + 1)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)


def test_cold_with_snapshots_killed_after_each_copy(life: Life) -> None:
    target = life.other
    life.sh("sync")
    life.estate.stop_worker()
    body = {"mode": "cold", "allow_power_cycle": True}
    operation = life.estate.act(life.server, "migrate", **body)
    life.killed("carry-disk", "after", operation)
    life.estate.start_worker()
    life.done("resumed", operation)
    life.all_on(target, 2 + 2 + 1)
    life.forget("two")
    life.to("three", "revert")
    assert life.sh("cd /root; ls one two three").split() == ["one", "three", "two"]
    life.all_on(target, 2 + 1)
