"""Data disks on simulated hosts: accepted, attached, grown, detached, kept, undone, deleted."""

from typing import Any
from uuid import UUID

import pytest
from api_client import Api
from conftest import Catalogue, Race
from journaled import active, snapshot
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import DataDisk, Event, Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.disks import MOST
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Phase, Status, Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.domain.specs import RevertRequest, SnapshotRequest
from innkeeper.errors import (
    Conflict,
    HostUnreachable,
    InvalidRequest,
    NoHostFits,
    NotFound,
    QuotaExceeded,
)
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.services import (
    accept,
    disks,
    hosts,
    journal,
    operations,
    reservations,
    servers,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, DiskView, OperationView
from tasks import reconciliation
from tasks.disks import DiskInUse
from tasks.step import declared

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def attach(life: Life, name: str = "data", *, failing: str = "", **fields: Any) -> OperationView:
    return life.do(Verb.ATTACH_DISK, AttachDiskRequest(name=name, **fields), failing=failing)


def detach(life: Life, name: str = "data", *, failing: str = "", **fields: Any) -> OperationView:
    return life.do(Verb.DETACH_DISK, DetachDiskRequest(disk=name, **fields), failing=failing)


def grow(life: Life, size: int, name: str = "data", *, failing: str = "") -> OperationView:
    body = GrowDiskRequest(disk=name, size_gib=size)
    return life.do(Verb.GROW_DISK, body, failing=failing)


def ask(verb: Verb, server_id: UUID, body: Any = None, **more: Any) -> OperationView:
    return accept.request(verb, server_id, body, project_id=None, actor="tester", **more)


def plan(verb: Verb, server_id: UUID, body: Any = None) -> ChangePlan:
    before = snapshot()
    with pytest.raises(Foreseen) as end:
        ask(verb, server_id, body, foresight=Foresight(dry_run=True))
    assert snapshot() == before
    return end.value.plan


def found() -> dict[str, DiskView]:
    return {view.name: view for view in disks.page().items}


def volumes(life: Life) -> set[str]:
    return {name for name in storage.volume_names(life.conn, POOL) if disk_of(name)}


def defined(life: Life) -> set[str]:
    """Return the devices of the data disks that the domain is defined with."""
    serials = adapter.serials(life.conn, life.server_id, defined=True)
    return {f"{disks.BY_ID}{serial}" for serial in serials}


def agreed(life: Life, *names: str) -> None:
    """Assert that database, domain and pool agree, and that the server has these disks."""
    views = found()
    view = servers.get(life.server_id)
    assert [disk.name for disk in view.disks] == list(names)
    assert defined(life) == {disk.device for disk in view.disks}
    assert all(disk.phase == "attached" for disk in view.disks)
    with transaction() as session:
        rows = {row.volume: row.size_gib for row in session.scalars(select(DataDisk))}
        held = reservations.reserved_by_project(session, life.catalogue.project_id).disk_gib
        of_servers = sum(row.disk_gib for row in session.scalars(select(Server)) if row.reserved)
    assert volumes(life) == set(rows)
    assert {name: storage.capacity(life.conn, POOL, name) >> 30 for name in rows} == rows
    assert held == of_servers + sum(rows.values())
    assert sum(one.reserved_disk_gib for one in hosts.all()) == held
    assert len(views) == len(rows)
    assert survey.audit() == []


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_disk_is_attached_grown_kept_and_attached_to_another(life: Life, running: bool) -> None:
    other = life.of(life.catalogue.create("other").server_id)
    with transaction() as session:
        op = session.scalars(select(Operation).where(Operation.server_id == other.server_id)).one()
        view_id, host = op.id, session.get_one(Server, life.server_id).host_id
        session.get_one(Server, other.server_id).host_id = host
    other.carry(operations.get(view_id))
    if not running:
        life.do(Verb.STOP)
    made = attach(life, size_gib=5, format="raw", iops=100, cache="none", read_only=True)
    assert made.disk_id == found()["data"].id
    agreed(life, "data")
    view = found()["data"]
    assert (view.server, view.target, view.format, view.iops) == ("web", "vdb", "raw", 100)
    grow(life, 7)
    agreed(life, "data")
    detach(life)
    agreed(life)
    assert (found()["data"].phase, found()["data"].server) == ("available", None)
    other.do(Verb.ATTACH_DISK, AttachDiskRequest(name="data", read_only=False))
    agreed(other, "data")
    view = found()["data"]
    assert (view.server, view.size_gib, view.read_only, view.iops) == ("other", 7, False, 100)
    detach(other, keep=False)
    assert found() == {}
    agreed(other)
    with transaction() as session:
        kinds = session.scalars(
            select(Event.kind).where(Event.kind.startswith("disk.")).order_by(Event.id)
        ).all()
    story = ["disk.attached", "disk.detached"]
    assert kinds == [*story, *story, "disk.deleted"]


@pytest.mark.parametrize("failing", ["make-disk", "plug-disk", "adopt-attachment"])
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_an_attachment_that_fails_leaves_all_as_it_was(
    life: Life, failing: str, kept: bool
) -> None:
    size: dict[str, Any] = {"size_gib": 3}
    if kept:
        attach(life, **size)
        detach(life)
        size = {"iops": 7}
    attach(life, "stays", size_gib=1)
    before = found()
    attach(life, failing=failing, **size)
    assert found() == before
    agreed(life, "stays")


def test_a_detachment_that_fails_gives_the_disk_back(life: Life) -> None:
    attach(life, size_gib=3)
    before = found()
    detach(life, failing="unplug-disk", keep=False)
    assert found() == before
    agreed(life, "data")


def test_a_disk_that_has_let_go_is_not_given_back(life: Life) -> None:
    attach(life, size_gib=3)
    view = ask(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data", keep=False))
    ended = life.carry(view, failing="let-go")
    assert ended.phase is Phase.FAILED
    assert servers.get(life.server_id).status is Status.ACTIVE
    assert [finding.problem for finding in survey.audit()] == [
        "it was to be deleted, and is still there"
    ]
    with transaction() as session:
        host_id = session.scalars(select(DataDisk.host_id)).one()
    reconciliation.mend_host(host_id)
    agreed(life)
    assert found() == {}


@pytest.mark.parametrize("failing", ["grow-data-disk", "expand-data-disk"])
def test_what_has_grown_stays_grown_whatever_fails(life: Life, failing: str) -> None:
    attach(life, size_gib=3)
    grow(life, 5, failing=failing)
    assert found()["data"].size_gib == 5
    agreed(life, "data")


def test_a_growth_that_never_began_is_given_back(life: Life) -> None:
    attach(life, size_gib=3)
    held = journal.claim(
        ask(Verb.GROW_DISK, life.server_id, GrowDiskRequest(disk="data", size_gib=9)).id
    )
    assert found()["data"].size_gib == 9, "what it may need is reserved"
    journal.undoing(held, "cancelled")
    journal.undone(held)
    assert found()["data"].size_gib == 3
    agreed(life, "data")


def test_a_full_pool_is_undone(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise PoolFull("The hypervisor says: no space left on device.")

    monkeypatch.setattr(storage, "ensure_volume", full)
    view = ask(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="data", size_gib=1))
    ended = life.carry(view)
    assert ended.phase is Phase.FAILED
    assert "no space left" in (ended.error or "")
    agreed(life)
    assert found() == {}


def test_an_undo_that_fails_leaves_a_disk_that_can_be_detached(life: Life) -> None:
    held = journal.claim(
        ask(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="data", size_gib=1)).id
    )
    for name in ("make-disk", "plug-disk"):
        declared(name)._attempt(held, undo=False)
    journal.undoing(held, "broken")
    with pytest.raises(DiskInUse, match="'data': detach it"):  # the step above could not be undone
        declared("make-disk")._attempt(held, undo=True)
    journal.undone(held)
    agreed(life, "data")
    detach(life, keep=False)
    agreed(life)


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_disks_stay_through_what_else_happens(life: Life, running: bool) -> None:
    attach(life, "one", size_gib=1)
    attach(life, "two", size_gib=2)
    if not running:
        life.do(Verb.STOP)
    life.do(Verb.REBUILD)
    agreed(life, "one", "two")
    life.take("disk-only")
    life.do(Verb.REVERT, RevertRequest(snapshot="disk-only"))
    agreed(life, "one", "two")
    life.delete("disk-only")
    detach(life, "one")
    agreed(life, "two")
    attach(life, "three", size_gib=1)
    assert {name: view.target for name, view in found().items()} == {
        "one": None,
        "two": "vdc",
        "three": "vdb",
    }
    twin = life.clone("twin")
    assert servers.get(twin.server_id).disks == []
    twin.do(Verb.DELETE)
    if running:
        for verb in (Verb.REBOOT, Verb.SUSPEND, Verb.RESUME):
            life.do(verb)
    agreed(life, "three", "two")


def test_with_its_server_a_disk_goes_unless_it_is_to_stay(life: Life) -> None:
    attach(life, "goes", size_gib=1)
    attach(life, "stays", size_gib=2, delete_on_server_delete=False)
    seen = plan(Verb.DELETE, life.server_id)
    assert "Data disks that go with it: goes." in seen.warnings
    assert "Data disks that are kept: stays." in seen.warnings
    life.do(Verb.DELETE)
    assert {name: view.phase for name, view in found().items()} == {"stays": "available"}
    assert volumes_of(life) == {str(found()["stays"].id)}
    with transaction() as session:
        held = reservations.reserved_by_project(session, life.catalogue.project_id)
    assert (held.servers, held.disk_gib) == (0, 2)
    with pytest.raises(Conflict, match="Data disks lie on"):
        hosts.remove(next(one.id for one in hosts.all() if one.name == found()["stays"].host))
    disks.delete(found()["stays"].id, project_id=None, actor="me")
    assert found() == {}
    assert volumes_of(life) == set()


def volumes_of(life: Life) -> set[str]:
    return {str(disk_of(name)) for name in volumes(life)}


def test_what_a_memory_does_not_fit_is_refused_with_the_names_of_the_disks(life: Life) -> None:
    life.take("asleep", memory=True)
    life.take("plain")
    attach(life, "one", size_gib=1)
    attach(life, "two", size_gib=1)
    for verb, body in (
        (Verb.SNAPSHOT, SnapshotRequest(memory=True)),
        (Verb.REVERT, RevertRequest(snapshot="asleep")),
    ):
        with pytest.raises(Conflict, match=rf"data disks \(one, two\) and cannot {verb}.* Detach"):
            life.do(verb, body)
    life.do(Verb.REVERT, RevertRequest(snapshot="plain"))
    agreed(life, "one", "two")


def test_requests_that_make_no_sense(life: Life) -> None:
    attach(life, size_gib=2)
    other = active(life.catalogue, "other")
    server = life.server_id
    put(other, host=server)
    for body, error, words in (
        (AttachDiskRequest(name="data", size_gib=1), Conflict, "exists already: leave the size"),
        (AttachDiskRequest(name="none"), NotFound, "no disk 'none' to attach: give a size"),
        (AttachDiskRequest(name="data"), Conflict, "is attached to 'web': detach it there first"),
        (AttachDiskRequest(name="big", size_gib=2048), QuotaExceeded, "2048 more asked"),
    ):
        with pytest.raises(error, match=words):
            ask(Verb.ATTACH_DISK, other, body)
    with pytest.raises(NotFound, match="'other' has no data disk 'data'"):
        ask(Verb.DETACH_DISK, other, DetachDiskRequest(disk="data"))
    with pytest.raises(InvalidRequest, match="has 2 GiB and only grows, 2 asked"):
        ask(Verb.GROW_DISK, server, GrowDiskRequest(disk="data", size_gib=2))
    life.catalogue.set_quota(disk_gib=-1)
    with pytest.raises(NoHostFits, match="2048 more GiB of disk asked"):
        ask(Verb.ATTACH_DISK, server, AttachDiskRequest(name="big", size_gib=2048))
    with pytest.raises(Conflict, match="'web' has disk 'data': detach it first"):
        disks.delete(found()["data"].id, project_id=None, actor="me")
    life.carry(ask(Verb.DETACH_DISK, server, DetachDiskRequest(disk="data")))
    put(other, away_from=server)
    with pytest.raises(Conflict, match="a disk can be attached to servers of its host"):
        ask(Verb.ATTACH_DISK, other, AttachDiskRequest(name="data"))
    with pytest.raises(InvalidRequest, match="has the format qcow2"):
        ask(Verb.ATTACH_DISK, server, AttachDiskRequest(name="data", format="raw"))
    assert list(found()) == ["data"], "nothing was made"


def put(server_id: UUID, *, host: UUID | None = None, away_from: UUID | None = None) -> None:
    """Place a server beside another one, or away from it."""
    known = [one.id for one in hosts.all()]
    with transaction() as session:
        there = session.get_one(Server, host or away_from).host_id
        ids = [one for one in known if (one == there) == (host is not None)]
        session.get_one(Server, server_id).host_id = ids[0]


def test_ten_and_no_more(life: Life) -> None:
    for number in range(MOST):
        attach(life, f"disk-{number}", size_gib=1)
    with pytest.raises(Conflict, match="10 data disks at most"):
        attach(life, "one-too-many", size_gib=1)
    agreed(life, *(f"disk-{number}" for number in range(MOST)))


@pytest.mark.parametrize("verb", [Verb.DETACH_DISK, Verb.GROW_DISK])
def test_from_every_status(life: Life, verb: Verb) -> None:
    attach(life, size_gib=1)
    body: Any = DetachDiskRequest(disk="data")
    for status in Status:
        with transaction() as session:
            server = session.get_one(Server, life.server_id)
            server.status, server.operation_id = status, None
        if verb is Verb.GROW_DISK:
            body = GrowDiskRequest(disk="data", size_gib=found()["data"].size_gib + 1)
        if status in TRANSITIONS[verb].allowed:
            seen = plan(verb, life.server_id, body)
            assert [change.effect for change in seen.changes] == ["live"]
            view = ask(verb, life.server_id, body, foresight=Foresight(digest=seen.digest))
            assert view.disk_id == found()["data"].id
        else:
            with pytest.raises(Conflict, match=f"is {status} cannot {verb}"):
                ask(verb, life.server_id, body)


def test_a_plan_tells_what_is_left(life: Life) -> None:
    free = plan(Verb.REBOOT, life.server_id)
    seen = plan(Verb.ATTACH_DISK, life.server_id, AttachDiskRequest(name="data", size_gib=5))
    assert free.host
    assert seen.host
    assert seen.host.free_disk_gib == free.host.free_disk_gib - 5
    assert free.quota.disk_gib == (seen.quota.disk_gib or 0) + 5
    assert [(c.subject, c.after) for c in seen.changes] == [("disk data", "5 GiB")]
    attach(life, size_gib=5)
    gone = plan(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data", keep=False))
    assert gone.host == free.host
    assert gone.quota == free.quota
    assert [change.effect for change in gone.changes] == ["recreate"]
    kept = plan(Verb.DETACH_DISK, life.server_id, DetachDiskRequest(disk="data"))
    assert kept.quota == seen.quota
    whole = plan(Verb.DELETE, life.server_id)
    assert whole.host
    assert whole.host.free_disk_gib == free.host.free_disk_gib + 1


def test_of_two_servers_that_want_one_disk_one_gets_it(catalogue: Catalogue, race: Race) -> None:
    life = Life(catalogue)
    attach(life, size_gib=1)
    detach(life)
    ids = [active(catalogue, f"vm-{number}") for number in range(6)]
    for server_id in ids:
        put(server_id, host=life.server_id)
    results = race(6, lambda n: ask(Verb.ATTACH_DISK, ids[n], AttachDiskRequest(name="data")))
    won = [result for result in results if isinstance(result, OperationView)]
    assert len(won) == 1
    assert all(isinstance(result, Conflict | OperationView) for result in results), results
    assert found()["data"].server_id == won[0].server_id


def test_of_two_disks_with_one_name_one_is_made(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"vm-{number}") for number in range(4)]
    body = AttachDiskRequest(name="data", size_gib=1)
    results = race(4, lambda number: ask(Verb.ATTACH_DISK, ids[number], body))
    assert sum(isinstance(result, OperationView) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 3, results


def test_of_two_verbs_on_one_server_one_wins(catalogue: Catalogue, race: Race) -> None:
    server_id = active(catalogue)
    bodies = [AttachDiskRequest(name=f"disk-{number}", size_gib=1) for number in range(4)]
    results = race(4, lambda number: ask(Verb.ATTACH_DISK, server_id, bodies[number]))
    assert sum(isinstance(result, OperationView) for result in results) == 1
    assert len(found()) == 1, "nothing of the others was reserved"


def test_a_deletion_whose_host_is_silent_is_finished_later(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(life, size_gib=1)
    detach(life)
    kept = found()["data"]

    def silent(*_: Any) -> None:
        raise HostUnreachable("The host does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_volume", silent)
        disks.delete(kept.id, project_id=None, actor="me")
    assert found()["data"].phase == "deleting"
    with pytest.raises(NotFound):
        attach(life)
    body = AttachDiskRequest(name="data", size_gib=2)  # the name is free again
    life.carry(ask(Verb.ATTACH_DISK, life.server_id, body))
    with transaction() as session:
        host_id = session.get_one(Server, life.server_id).host_id
    assert host_id
    reconciliation.mend_host(host_id)
    agreed(life, "data")


@sqlite
def test_over_the_api(api: Api) -> None:
    server = api.create().json()["server_id"]
    held = journal.claim(UUID(api("GET", "/operations").json()["items"][0]["id"]))
    journal.complete(held)
    made = api(
        "POST", f"/servers/{server}/actions/attach-disk", json={"name": "data", "size_gib": 5}
    )
    assert (made.status_code, made.json()["verb"]) == (202, "attach-disk")
    (one,) = api("GET", "/disks").json()["items"]
    assert (one["name"], one["phase"], one["server_id"]) == ("data", "creating", server)
    assert made.json()["disk_id"] == one["id"]
    assert one["device"].startswith("/dev/disk/by-id/virtio-")
    assert api("GET", f"/disks/{one['id']}").json() == one
    assert api("GET", f"/servers/{server}").json()["disks"] == [one]
    assert api("DELETE", f"/disks/{one['id']}").status_code == 409
    for method in ("GET", "DELETE"):
        assert api(method, f"/disks/{one['id']}", "stranger").status_code == 404
    assert api("GET", "/disks", "stranger").json()["items"] == []
    busy = api("POST", f"/servers/{server}/actions/attach-disk", json={"name": "d", "size_gib": 1})
    assert busy.status_code == 409
    for wrong in ({}, {"name": "d", "size_gib": 0}, {"name": "d", "size_gib": 1, "pool": "p"}):
        refused = api("POST", f"/servers/{server}/actions/attach-disk", json=wrong)
        assert refused.status_code == 422, refused.text
    assert len(api("GET", "/disks").json()["items"]) == 1


def test_a_disabled_host_gets_no_new_disks(life: Life) -> None:
    life.catalogue.set_hosts(enabled=False)
    with pytest.raises(NoHostFits, match="takes nothing new"):
        attach(life, size_gib=1)
    assert found() == {}


def test_what_was_deleted_on_a_dead_host_does_not_keep_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(life, "kept", size_gib=1)
    attach(life, "gone", size_gib=1)
    for name in ("kept", "gone"):
        detach(life, name)
    life.carry(ask(Verb.DELETE, life.server_id))

    def silent(*_: Any) -> None:
        raise HostUnreachable("The host does not answer.")

    monkeypatch.setattr(storage, "delete_volume", silent)
    monkeypatch.setattr(hosts, "_clean", lambda *_: None)
    host_id = life.catalogue.host_ids[found()["gone"].host]
    life.catalogue.set_hosts(reachable=False)
    disks.delete(found()["gone"].id, project_id=None, actor="me")
    with pytest.raises(Conflict, match=r"\(kept\): delete them first"):
        hosts.remove(host_id, actor="me")
    disks.delete(found()["kept"].id, project_id=None, actor="me")
    hosts.remove(host_id, actor="me")
    assert found() == {}
