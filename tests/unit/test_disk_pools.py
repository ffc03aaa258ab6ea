"""Data disks in further pools of a host: allowed by its operator, counted for themselves."""

from typing import Any

import pytest
from conftest import Catalogue, Race
from disk_life import ask, attach, detach, found, grow, plan
from journaled import active
from stepwise import Life
from two_hosts import used

from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.services import disks, events, hosts, operations, survey
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import HostView, OperationView
from tasks.reconciliation import mend_host

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    catalogue.set_hosts("beta", enabled=False)
    made = Life(catalogue)
    storage.ensure_pool(made.conn, "ssd", "/innkeeper-ssd")
    allow(made, ssd=10)
    return made


def allow(life: Life, **pools: int) -> HostView:
    return hosts.update(life.catalogue.host_ids["alpha"], {"pools": pools}, actor="me")


def files(life: Life, pool: str) -> set[str]:
    return {name for name in storage.volume_names(life.conn, pool) if disk_of(name)}


def host() -> HostView:
    return next(one for one in hosts.all() if one.name == "alpha")


@sqlite
def test_a_disk_lies_where_it_was_asked_for(life: Life) -> None:
    free = host().reserved_disk_gib
    attach(life, size_gib=4, pool="ssd")
    view = found()["data"]
    assert (view.pool, files(life, "ssd"), files(life, POOL)) == ("ssd", {view_file(life)}, set())
    assert (host().reserved_disk_gib, host().reserved_pools) == (free, {"ssd": 4})
    xml = life.conn.lookupByUUIDString(str(life.server_id)).XMLDesc(2)
    assert f"/innkeeper-ssd/{view_file(life)}" in xml
    grow(life, 6)
    assert storage.capacity(life.conn, "ssd", view_file(life)) == 6 << 30
    assert host().reserved_pools == {"ssd": 6}
    assert survey.audit() == []
    detach(life)
    attach(life)
    with pytest.raises(InvalidRequest, match="only grows"):
        ask(Verb.GROW_DISK, life.server_id, GrowDiskRequest(disk="data", size_gib=6))
    detach(life, keep=False)
    assert (files(life, "ssd"), found(), host().reserved_pools) == (set(), {}, {})


def view_file(life: Life) -> str:
    (name,) = files(life, "ssd")
    return name


@sqlite
@pytest.mark.parametrize("failing", ["make-disk", "plug-disk", "adopt-attachment"])
def test_an_attachment_that_fails_leaves_nothing_there(life: Life, failing: str) -> None:
    attach(life, size_gib=1, pool="ssd", failing=failing)
    assert (files(life, "ssd"), found()) == (set(), {})


@sqlite
def test_with_its_server_it_goes_or_stays(life: Life) -> None:
    attach(life, "goes", size_gib=1, pool="ssd")
    attach(life, "stays", size_gib=2, pool="ssd", delete_on_server_delete=False)
    before = plan(Verb.STOP, life.server_id)
    seen = plan(Verb.DELETE, life.server_id)
    assert seen.host
    assert before.host
    assert seen.host.free_disk_gib == before.host.free_disk_gib + 1, "its root disk alone"
    assert seen.quota.disk_gib == (before.quota.disk_gib or 0) + 2
    life.do(Verb.DELETE)
    kept = found()["stays"]
    assert len(files(life, "ssd")) == 1
    again = Foresight(dry_run=True)
    with pytest.raises(Foreseen) as end:
        disks.delete(kept.id, project_id=None, actor="me", foresight=again)
    assert end.value.plan.host
    assert end.value.plan.host.free_disk_gib == seen.host.free_disk_gib
    disks.delete(kept.id, project_id=None, actor="me")
    assert files(life, "ssd") == set()


@sqlite
def test_each_pool_has_room_of_its_own(life: Life) -> None:
    life.catalogue.set_hosts("alpha", disk_gib=1)  # the usual one is full
    attach(life, size_gib=7, pool="ssd")
    with pytest.raises(NoHostFits, match=r"Pool 'ssd' of host alpha .*4 more GiB .*3 free"):
        ask(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="x", size_gib=4, pool="ssd"))
    with pytest.raises(NoHostFits, match="Pool 'ssd' of host alpha"):
        ask(Verb.GROW_DISK, life.server_id, GrowDiskRequest(disk="data", size_gib=11))
    grow(life, 10)
    seen = plan(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data", keep=False))
    assert seen.host
    assert seen.host.free_disk_gib == 0
    assert used("alpha")[2] == 1


def test_of_many_at_once_as_many_get_a_disk_as_fit(catalogue: Catalogue, race: Race) -> None:
    catalogue.set_hosts("beta", enabled=False)
    life = Life(catalogue)
    storage.ensure_pool(life.conn, "ssd", "/innkeeper-ssd")
    allow(life, ssd=6)
    ids = [active(catalogue, f"web-{number}") for number in range(5)]

    def one(number: int) -> OperationView:
        body = AttachDiskRequest(name=f"disk-{number}", size_gib=2, pool="ssd")
        return ask(Verb.ATTACH_DISK, ids[number], body)

    results = race(5, one)
    refused = [result for result in results if not isinstance(result, OperationView)]
    assert [type(error) for error in refused] == [NoHostFits] * 2, results


@sqlite
def test_what_makes_no_sense_is_refused(life: Life) -> None:
    body = AttachDiskRequest(name="data", size_gib=1, pool="tape")
    with pytest.raises(InvalidRequest, match="no pool 'tape' for data disks, only innkeeper, ssd"):
        ask(Verb.ATTACH_DISK, life.server_id, body)
    attach(life, size_gib=1, pool="ssd")
    detach(life)
    moved = AttachDiskRequest(name="data", pool=POOL)
    with pytest.raises(InvalidRequest, match="lies in pool 'ssd': that cannot be changed"):
        ask(Verb.ATTACH_DISK, life.server_id, moved)
    with pytest.raises(Conflict, match=r"would be forgotten \(data in ssd\)"):
        allow(life)
    with pytest.raises(InvalidRequest, match="has no storage pool 'tape': define it there"):
        allow(life, ssd=10, tape=5)
    with pytest.raises(InvalidRequest, match="is the usual one"):
        allow(life, ssd=10, innkeeper=5)
    with pytest.raises(NotFound):
        hosts.update(life.server_id, {"pools": {}})
    life.conn.storagePoolLookupByName("ssd").destroy()
    with pytest.raises(InvalidRequest, match="'ssd' is not active"):
        allow(life, ssd=20)
    assert host().pools == {"ssd": 10}


@sqlite
def test_the_host_is_asked_for_the_size_that_is_left_out(life: Life) -> None:
    there = storage.pool_capacity(life.conn, "ssd").total_bytes >> 30
    assert allow(life, ssd=0).pools == {"ssd": there}
    assert allow(life).pools == {}
    body = AttachDiskRequest(name="data", size_gib=1, pool="ssd")
    with pytest.raises(InvalidRequest, match="only innkeeper"):
        ask(Verb.ATTACH_DISK, life.server_id, body)


@sqlite
def test_a_disk_that_is_gone_from_its_pool_is_told(life: Life) -> None:
    view = attach(life, size_gib=1, pool="ssd")
    assert operations.get(view.id).phase is Phase.SUCCEEDED
    storage.delete_volume(life.conn, "ssd", view_file(life))
    assert [finding.problem for finding in survey.audit()] == ["missing, though attached"]


@sqlite
def test_a_pool_that_is_stopped_keeps_nobody_from_mending_the_host(life: Life) -> None:
    attach(life, size_gib=1, pool="ssd")
    attach(life, "goes", size_gib=1, pool="ssd")
    detach(life, "goes")
    stray = f"{life.server_id}-root-0.qcow2"
    storage.ensure_volume(life.conn, POOL, stray, 1 << 20)
    life.conn.storagePoolLookupByName("ssd").destroy()
    disks.delete(found()["goes"].id, project_id=None, actor="me")
    assert found()["goes"].phase == "deleting"
    told = {finding.name: finding for finding in mend_host(life.catalogue.host_ids["alpha"])}
    assert stray not in storage.volume_names(life.conn, POOL)
    assert told.pop(stray).reapable
    assert {one.problem.partition(":")[0] for one in told.values()} == {
        f"{phase}, but pool 'ssd' cannot be looked at" for phase in ("attached", "deleting")
    }
    life.conn.storagePoolLookupByName("ssd").create()
    mend_host(life.catalogue.host_ids["alpha"])
    assert "goes" not in found()


@sqlite
@pytest.mark.parametrize("empty", [False, True])
def test_a_disk_to_be_deleted_is_known_until_its_pool_is_there_again(
    life: Life, empty: bool
) -> None:
    attach(life, size_gib=1, pool="ssd")
    detach(life)
    name = view_file(life)
    gone = life.conn.storagePoolLookupByName("ssd")
    gone.destroy()
    gone.undefine()
    disks.delete(found()["data"].id, project_id=None, actor="me")
    (told,) = mend_host(life.catalogue.host_ids["alpha"])
    assert told.name == name
    assert "deleting, but pool 'ssd' cannot be looked at: define it there" in told.problem
    assert (found()["data"].phase, host().reserved_pools) == ("deleting", {"ssd": 1})
    storage.ensure_pool(life.conn, "ssd", "/innkeeper-ssd")
    if not empty:  # simulated pools forget what is in them
        storage.ensure_volume(life.conn, "ssd", name, 1 << 30)
    mend_host(life.catalogue.host_ids["alpha"])
    assert (files(life, "ssd"), found(), survey.audit()) == (set(), {}, [])


@sqlite
@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("verb", [Verb.DELETE, Verb.DETACH_DISK])
def test_a_pool_that_is_not_at_work_keeps_no_server_from_its_end(
    life: Life, verb: Verb, defined: bool
) -> None:
    attach(life, size_gib=1, pool="ssd")
    name = view_file(life)
    pool = life.conn.storagePoolLookupByName("ssd")
    conn = life.conn
    pool.destroy()
    if not defined:
        pool.undefine()
    detached = DetachDiskRequest(disk="data", keep=False)
    ended = life.carry(ask(verb, life.server_id, detached if verb is Verb.DETACH_DISK else None))
    assert (ended.phase, found()["data"].phase) == (Phase.SUCCEEDED, "deleting")
    assert (found()["data"].server, host().reserved_pools) == (None, {"ssd": 1})
    (why,) = [e.reason for e in events.page().items if e.kind == "disk.deletion.waits"]
    assert "virsh pool-start" in why or "no storage pool" in why
    mend_host(life.catalogue.host_ids["alpha"])
    assert found()["data"].phase == "deleting"
    if defined:
        pool.create()
    else:
        storage.ensure_pool(conn, "ssd", "/innkeeper-ssd")
        storage.ensure_volume(conn, "ssd", name, 1 << 30)
    mend_host(life.catalogue.host_ids["alpha"])
    assert (set(storage.volume_names(conn, "ssd")), found()) == (set(), {})


@sqlite
@pytest.mark.parametrize("error", [PoolFull("No room."), RuntimeError("odd")])
def test_what_cannot_be_reaped_is_told_and_keeps_nothing_else(
    life: Life, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    strays = [f"{life.server_id}-root-{number}.qcow2" for number in range(3)]
    for stray in strays:
        storage.ensure_volume(life.conn, POOL, stray, 1 << 20)
    delete = storage.delete_volume

    def stuck(conn: Any, pool: str, name: str) -> None:
        if name == strays[0]:
            raise error
        delete(conn, pool, name)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_volume", stuck)
        told = {one.name: one for one in mend_host(life.catalogue.host_ids["alpha"])}
    assert {name: one.reapable for name, one in told.items()} == dict.fromkeys(strays, True) | {
        strays[0]: False
    }
    assert told[strays[0]].problem.endswith(f"does not use it; it stays: {error}")
    assert set(strays) & set(storage.volume_names(life.conn, POOL)) == {strays[0]}
    mend_host(life.catalogue.host_ids["alpha"])
    assert survey.audit() == []
