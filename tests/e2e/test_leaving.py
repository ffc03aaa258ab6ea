"""Away from their host: data disks in further pools; proven from inside, one life."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.estate import Estate
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
