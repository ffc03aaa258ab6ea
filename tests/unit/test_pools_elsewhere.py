"""Data disks in further pools that leave their host: where they lie then, and what is held."""

import pytest
from conftest import Catalogue
from disk_life import plan
from journaled import carried
from two_hosts import Life, used

from innkeeper.db.models import DataDisk
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.domain.specs import MigrateRequest, UnshelveRequest
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.hypervisor import storage
from innkeeper.services import hosts, survey

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)
SSD = "ssd"


class Lodged(Life):
    """A server with a disk of 4 GiB in a further pool of alpha, and what is done to it."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.allow("alpha", 10)
        self.do(Verb.ATTACH_DISK, AttachDiskRequest(name="data", size_gib=4, pool=SSD))
        self.do(Verb.ATTACH_DISK, AttachDiskRequest(name="usual", size_gib=1))

    def allow(self, host: str, gib: int) -> None:
        storage.ensure_pool(self.conn(host), SSD, f"/innkeeper-{SSD}")
        hosts.update(self.catalogue.host_ids[host], {"pools": {SSD: gib}}, actor="me")

    def lies(self, host: str) -> tuple[int, int]:
        """Return how many data disks lie in the further and the usual pool of a host."""
        conn = self.conn(host)
        pools = set(conn.listStoragePools())
        there = [storage.volume_names(conn, pool) if pool in pools else [] for pool in (SSD, POOL)]
        further, usual = (len([name for name in names if disk_of(name)]) for names in there)
        return further, usual

    def held(self, host: str) -> tuple[dict[str, int], int]:
        view = next(one for one in hosts.all() if one.name == host)
        return view.reserved_pools, view.reserved_disk_gib

    @property
    def pools(self) -> dict[str, str]:
        return {disk.name: disk.pool for disk in self.view.disks}

    def agreed(self) -> None:
        assert survey.audit() == []
        with transaction() as session:
            assert {row.other_pool for row in session.query(DataDisk)} == {None}


@pytest.fixture
def life(catalogue: Catalogue) -> Lodged:
    return Lodged(catalogue)


def test_it_goes_to_the_pool_of_the_same_name_and_both_are_held_meanwhile(life: Lodged) -> None:
    life.allow("beta", 4)
    assert plan(Verb.MIGRATE, life.server_id, COLD).changes[1:] == []
    life.ask(Verb.MIGRATE, COLD)
    assert (life.held("alpha"), life.held("beta")) == (({SSD: 4}, 2), ({SSD: 4}, 2))
    with pytest.raises(Conflict, match="Data disks lie in pools of 'beta'"):
        hosts.update(life.catalogue.host_ids["beta"], {"pools": {}}, actor="me")


def test_cold_migration_there_and_back(life: Lodged) -> None:
    life.allow("beta", 4)
    life.do(Verb.MIGRATE, COLD)
    assert (life.view.host, life.pools) == ("beta", {"data": SSD, "usual": POOL})
    assert (life.lies("alpha"), life.lies("beta")) == ((0, 0), (1, 1))
    assert (life.held("alpha"), life.held("beta")) == (({}, 0), ({SSD: 4}, 2))
    life.agreed()
    life.do(Verb.MIGRATE, COLD)
    assert (life.lies("alpha"), life.lies("beta")) == ((1, 1), (0, 0))
    life.agreed()


@pytest.mark.parametrize(("gib", "why"), [(None, "no such pool"), (3, "3 GiB free in ssd")])
def test_without_room_there_it_goes_to_the_usual_pool_if_that_has(
    life: Lodged, gib: int | None, why: str
) -> None:
    if gib is not None:
        life.allow("beta", gib)
    life.catalogue.set_hosts("beta", disk_gib=5)
    with pytest.raises(NoHostFits) as refusal:
        life.ask(Verb.MIGRATE, COLD)
    assert f"6 GiB of disk asked, 5 GiB free (disk data from ssd, 4 GiB, has {why} here)" in str(
        refusal.value
    )
    life.catalogue.set_hosts("beta", disk_gib=6)
    (change,) = plan(Verb.MIGRATE, life.server_id, COLD).changes[1:]
    assert (change.subject, change.before, change.after) == ("pool of disk data", SSD, POOL)
    life.do(Verb.MIGRATE, COLD)
    assert (life.view.host, life.pools) == ("beta", {"data": POOL, "usual": POOL})
    assert (life.lies("alpha"), life.lies("beta")) == ((0, 0), (0, 2))
    assert used("beta")[2] == 6
    life.agreed()


@pytest.mark.parametrize("failing", ["carry-snapshots", "carry-data-disks", "forward"])
def test_undone_it_is_where_it_was(life: Lodged, failing: str) -> None:
    life.allow("beta", 4)
    life.do(Verb.MIGRATE, COLD, failing=failing)
    assert (life.view.host, life.pools["data"]) == ("alpha", SSD)
    assert (life.lies("alpha"), life.lies("beta")) == ((1, 1), (0, 0))
    assert life.held("beta") == ({}, 0)
    life.agreed()


def test_what_is_there_before_is_neither_replaced_nor_deleted(life: Lodged) -> None:
    """As when both hosts have one pool, on NFS: there the copy would be the disk itself."""
    life.allow("beta", 4)
    (name,) = [n for n in storage.volume_names(life.conn("alpha"), SSD) if disk_of(n)]
    storage.ensure_volume(life.conn("beta"), SSD, name, 4 << 30)
    made = life.conn("beta").storagePoolLookupByName(SSD).storageVolLookupByName(name).key()
    ended = carried(life.ask(Verb.MIGRATE, COLD))
    assert "has files of data disks of web already (data in ssd)" in (ended.error or "")
    there = life.conn("beta").storagePoolLookupByName(SSD).storageVolLookupByName(name)
    assert (there.key(), life.view.host, life.lies("alpha")) == (made, "alpha", (1, 1))
    storage.delete_volume(life.conn("beta"), SSD, name)
    life.agreed()


def test_on_the_shelf_it_takes_nothing_and_comes_back_where_there_is_room(life: Lodged) -> None:
    life.do(Verb.SHELVE)
    assert (life.held("alpha"), life.lies("alpha")) == (({}, 0), (0, 0))
    hosts.update(life.catalogue.host_ids["alpha"], {"pools": {}}, actor="me")
    life.agreed()
    life.allow("beta", 4)
    wish = UnshelveRequest(host="alpha")
    changes = plan(Verb.UNSHELVE, life.server_id, wish).changes
    assert [(one.subject, one.after) for one in changes][2:] == [("pool of disk data", POOL)]
    life.do(Verb.UNSHELVE, wish, failing="clock")
    assert life.pools["data"] == SSD, "where it belonged before"
    assert life.lies("alpha") == (0, 0)
    life.do(Verb.UNSHELVE)
    assert life.view.host == "beta", "which has its pool, though alpha comes first"
    assert (life.lies("beta"), life.held("beta")) == ((1, 1), ({SSD: 4}, 2))
    life.agreed()
