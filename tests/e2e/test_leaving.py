"""Away from their host: data disks in further pools, and linked clones; proven from inside."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.estate import Estate, eventually, unique
from e2e.test_migration import Life as Moving
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect

SECOND = "second"


class Life(Moving):
    """The server of these tests and what is done to it."""

    def lies(self, host: str) -> dict[str, int]:
        """Return how many data disks there are in each pool of a host."""
        conn = connect(self.estate.host(host).uri)
        there = {pool: storage.volume_names(conn, pool) for pool in conn.listStoragePools()}
        return {pool: len([n for n in names if disk_of(n)]) for pool, names in there.items()}

    def twin(self) -> "Life":
        """Return the life of a linked clone, with something of its own on its disk."""
        made, body = copy.copy(self), {"name": unique("twin")}
        made.done("cloned", self.estate.client.post(f"/servers/{self.id}/clones", body))
        made.sh("dd if=/dev/urandom of=/root/own bs=1M count=4 2>/dev/null; sync")
        return made

    def sums(self) -> str:
        """Return the checksums of what was there when it was cloned, and of what is its own."""
        self.sh("sync; echo 3 > /proc/sys/vm/drop_caches")
        return self.sh("cd /root; sha256sum noise own /usr/bin/python3*")

    def stands_alone(self, home: str, sums: str) -> None:
        """Assert that its disk stands on its image only, and has what it had."""
        assert (self.server["status"], self.server["host"]) == ("active", home)
        assert self.sums() == sums
        below = [path.name for path in self.files(home).values() if path]
        assert [name[:6] for name in below] == ["image-"]
        assert len(self.files(home)) == 2
        assert self.estate.audit() == []

    def is_free(self) -> None:
        """Have what was taken for its clones removed, which none of them needs any more."""
        self.estate.reconcile()
        eventually(lambda: not list(self.estate.client.items(self.path)), what="no snapshots")
        eventually(lambda: not self.estate.server(self.server)["operation_id"])

    def noise(self, name: str) -> str:
        """Return the checksum of what a disk has."""
        self.sh("sync; echo 3 > /proc/sys/vm/drop_caches")
        return self.sh(f"dd if={self.device(name)} bs=1M count=8 2>/dev/null | sha256sum")


@pytest.fixture(scope="module")
def life(estate: Estate) -> Iterator[Life]:
    estate.clear()
    hosts = estate.lab.hosts()
    for host in hosts:
        folder = Path(host.pool_path).with_name(SECOND)
        storage.ensure_pool(connect(host.uri), SECOND, folder)
        estate.cli("host", "pools", host.name, f"{SECOND}=3")
    yield Life(estate)
    estate.clear()
    for host in hosts:
        estate.cli("host", "pools", host.name)
        pool = connect(host.uri).storagePoolLookupByName(SECOND)
        pool.destroy()
        pool.undefine()


def test_disks_in_further_pools_go_along(life: Life) -> None:
    boot = life.estate.boot_id(life.server)
    for name, form in (("data", "qcow2"), ("raw", "raw")):
        life.attach(name, format=form, pool=SECOND)
        life.sh(f"dd if=/dev/urandom of={life.device(name)} bs=1M count=8 2>/dev/null; sync")
    before = life.noise("data"), life.noise("raw")
    home, target = life.server["host"], life.other
    life.migrate(mode="live")
    assert (life.lies(home)[SECOND], life.lies(target)) == (0, {POOL: 0, SECOND: 2})
    assert life.estate.boot_id(life.server) == boot
    assert (life.noise("data"), life.noise("raw")) == before
    life.shelve()
    assert life.lies(target) == {POOL: 0, SECOND: 0}
    life.unshelve(host=home)
    assert life.lies(home) == {POOL: 0, SECOND: 2}
    assert (life.noise("data"), life.noise("raw")) == before
    life.estate.cli("host", "pools", target)  # there it is not allowed any more
    wish = {"mode": "cold", "allow_power_cycle": True}
    plan = life.estate.client.post(f"/servers/{life.id}/actions/migrate", wish, dry_run=True)
    told = {change["subject"]: change["after"] for change in plan["changes"]}
    assert told == {"host": target, "pool of disk data": POOL, "pool of disk raw": POOL}
    life.migrate(**wish)
    assert (life.lies(home)[SECOND], life.lies(target)) == (0, {POOL: 2, SECOND: 0})
    assert (life.noise("data"), life.noise("raw")) == before


def test_linked_clones_leave_as_full_copies(life: Life) -> None:
    life.sh("dd if=/dev/urandom of=/root/noise bs=1M count=8 2>/dev/null; sync")
    home, target = life.server["host"], life.other
    twin = life.twin()
    leaf = twin.twin()  # on two other servers' files
    sums = leaf.sums()
    leaf.migrate(mode="cold", allow_power_cycle=True)
    leaf.stands_alone(target, sums)
    assert leaf.traces(home) == []
    twin.is_free()
    sums, boot = twin.sums(), life.estate.boot_id(twin.server)
    twin.migrate(mode="live")
    twin.stands_alone(target, sums)
    assert life.estate.boot_id(twin.server) == boot
    third = leaf.twin()
    sums = third.sums()
    third.shelve()
    third.unshelve(host=target)  # its port is another server's at home
    third.stands_alone(target, sums)
    for source in (life, leaf):
        source.is_free()
        path = f"/servers/{source.id}/actions/shelve"  # refused while clones stand on it
        assert life.estate.client.post(path, None, dry_run=True)["changes"]
