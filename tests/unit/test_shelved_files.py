"""Snapshots and data disks onto the shelf and back, on two simulated hosts."""

from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from conftest import Catalogue
from journaled import artifacts, carried
from two_hosts import NOTHING, Life, used

from innkeeper.db.models import DataDisk, Server, ShelfFile
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.domain.specs import (
    DeleteSnapshotRequest,
    RevertRequest,
    SnapshotRequest,
    UnshelveRequest,
)
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.errors import Absent
from innkeeper.images import shelf
from innkeeper.services import (
    accept,
    disks,
    journal,
    layering,
    reconcile,
    reservations,
    shelves,
    snapshots,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
FILES = 7
"""Three frozen layers, a memory, the disk above them, and two data disks."""


class Laden(Life):
    """A server with a tree of snapshots and data disks."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.do(Verb.SNAPSHOT, SnapshotRequest(name="asleep", memory=True))
        self.do(Verb.SNAPSHOT, SnapshotRequest(name="plain"))
        self.do(Verb.REVERT, RevertRequest(snapshot="asleep"))
        self.do(Verb.SNAPSHOT, SnapshotRequest(name="branch"))
        self.attach("data", size_gib=2, iops=70)
        self.attach("rules", size_gib=1, format="raw", read_only=True)

    def attach(self, name: str, **fields: Any) -> None:
        self.do(Verb.ATTACH_DISK, AttachDiskRequest(name=name, **fields))

    def volumes(self, host: str) -> list[str]:
        """Return the files of the server, and those of data disks, on a host."""
        names: list[str] = []
        with suppress(Absent):  # no server was ever placed there
            names = storage.volume_names(self.conn(host), POOL)
        data = [name for name in names if disk_of(name)]
        return [*self.here(host)[1], *data]

    def shelved(self) -> set[str]:
        """Return the volumes that the shelf has whole."""
        with transaction() as session:
            rows = session.query(ShelfFile).filter(ShelfFile.server_id == self.server_id).all()
        for row in rows:
            shelf.require_whole(row.name, row.size_bytes)
        assert shelf.sizes() == {row.name: row.size_bytes for row in rows}
        return {row.volume for row in rows if row.sha256}

    def kept(self) -> dict[str, tuple[str, bool]]:
        found = snapshots.page(self.server_id, limit=100).items
        return {view.name: (view.phase, view.current) for view in found}


@pytest.fixture
def life(catalogue: Catalogue) -> Laden:
    return Laden(catalogue)


def test_all_of_a_server_leaves_its_host_and_comes_back_on_another(life: Laden) -> None:
    before, files = life.kept(), set(life.volumes("alpha"))
    own = files - {name for name in files if name.endswith(".iso")}
    drives = {view.name: view for view in life.view.disks}
    lean = {name: _leans(life, "alpha", name) for name in own}
    assert len(own) == FILES
    assert used("alpha") == (1, 192, 4)
    life.shelve()
    assert life.shelved() == own
    assert (life.here("alpha"), life.volumes("alpha"), artifacts()) == (NOTHING, [], {})
    assert used("alpha") == (0, 0, 0)
    with transaction() as session:
        held = reservations.reserved_by_project(session, life.catalogue.project_id)
        kept = layering.held(session, life.catalogue.project_id)
    assert (held.servers, held.vcpus, held.disk_gib, kept.snapshots) == (1, 0, 4, 3)
    assert life.kept() == before, "they can be listed meanwhile"
    after = life.unshelve("beta")
    assert (after.status, after.host) == (Status.ACTIVE, "beta")
    assert set(life.volumes("beta")) == files
    assert {name: _leans(life, "beta", name) for name in own} == lean
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (1, 192, 4))
    assert life.shelved() == set()
    same = {"host", "phase"}
    assert {v.name: v.model_dump(exclude=same) for v in after.disks} == {
        name: view.model_dump(exclude=same) for name, view in drives.items()
    }
    assert {view.host for view in after.disks} == {"beta"}
    assert len(adapter.serials(life.conn("beta"), life.server_id, defined=True)) == len(drives)
    assert {name for name in artifacts() if disk_of(name)} == set(), "their own rows tell of them"
    life.do(Verb.REVERT, RevertRequest(snapshot="plain"))
    for name in drives:
        life.do(Verb.DETACH_DISK, DetachDiskRequest(disk=name))
    life.do(Verb.REVERT, RevertRequest(snapshot="asleep"))
    for name in before:
        life.do(Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot=name))
    assert survey.audit() == []


def _leans(life: Laden, host: str, name: str) -> str | None:
    below = storage.leans_on(life.conn(host), POOL, name)
    return below.name if below else None


@pytest.mark.parametrize(
    "failing", ["shelve-snapshots", "rest", "shelve-disk", "shelve-data-disks"]
)
def test_an_undone_shelving_leaves_nothing_on_the_shelf(life: Laden, failing: str) -> None:
    files = life.volumes("alpha")
    life.do(Verb.SHELVE, failing=failing)
    assert (life.view.status, life.volumes("alpha")) == (Status.ACTIVE, files)
    assert life.shelved() == set()
    assert used("alpha") == (1, 192, 4)
    assert survey.audit() == []


@pytest.mark.parametrize("failing", ["unshelve-snapshots", "unshelve-data-disks", "domain"])
def test_an_undone_unshelving_leaves_nothing_on_the_host(life: Laden, failing: str) -> None:
    life.shelve()
    kept = life.shelved()
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing=failing)
    assert (life.volumes("alpha"), life.volumes("beta"), artifacts()) == ([], [], {})
    assert (used("beta"), life.shelved()) == ((0, 0, 0), kept)
    assert survey.audit() == []
    assert life.unshelve("alpha").host == "alpha"


@pytest.mark.parametrize("failing", ["undefine", "remove-data-disks", "remove-snapshots"])
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_what_a_host_could_not_remove_is_reaped_wherever_the_server_is(
    life: Laden, failing: str, host: str
) -> None:
    life.do(Verb.SHELVE, failing=failing)
    left = life.volumes("alpha")
    assert left
    assert (life.view.status, used("alpha")) == (Status.SHELVED, (0, 0, 0))
    life.do(Verb.UNSHELVE, UnshelveRequest(host=host))
    back = set(life.volumes(host))
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert survey.audit() == []
    assert set(life.volumes(host)) == back
    assert len(back) == FILES + 1, "all, and the seed"
    if host == "beta":
        assert life.volumes("alpha") == []


def test_what_a_host_could_not_remove_is_reaped_while_the_server_rests(life: Laden) -> None:
    life.do(Verb.SHELVE, failing="adopt-shelf")
    kept = life.shelved()
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert (life.volumes("alpha"), artifacts(), survey.audit()) == ([], {}, [])
    assert life.shelved() == kept


def test_leftovers_of_an_unshelving_on_a_silent_host_are_reaped_later(
    life: Laden, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.shelve()
    undoing = journal.undoing
    monkeypatch.setattr(journal, "undoing", lambda *args: undoing(*args)[:0])  # nobody answers
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing="start")
    monkeypatch.undo()
    assert len(life.volumes("beta")) == FILES + 1
    life.do(Verb.UNSHELVE, UnshelveRequest(host="alpha"))
    reconciliation.mend_host(life.catalogue.host_ids["beta"])
    assert (life.here("beta"), life.volumes("beta")) == (NOTHING, [])
    assert len(life.volumes("alpha")) == FILES + 1
    assert survey.audit() == []


def test_past_its_point_of_no_return_an_unshelving_keeps_what_is_on_the_host(life: Laden) -> None:
    life.shelve()
    kept = life.shelved()
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing="adopt-disk")
    assert life.view.status is Status.ACTIVE
    assert {finding.kind for finding in survey.audit()} == {"shelf"}
    assert len(shelves.tidy()) == len(kept)
    assert survey.audit() == []
    assert len(life.volumes("beta")) == FILES + 1


def test_room_is_asked_for_with_all_that_comes_back(life: Laden) -> None:
    with transaction() as session:
        for row in session.query(layering.Snapshot):
            row.size_bytes = 1 << 30
    life.shelve()
    life.catalogue.set_hosts(disk_gib=6)  # 1 of the root disk, 3 of data disks, 3 of snapshots
    with pytest.raises(NoHostFits, match="7 GiB of disk asked, 6 GiB free"):
        life.ask(Verb.UNSHELVE)
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (0, 0, 0))
    life.catalogue.set_hosts(disk_gib=7)
    life.unshelve("beta")


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        (Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot="plain")),
        (Verb.REVERT, RevertRequest(snapshot="plain")),
        (Verb.DETACH_DISK, DetachDiskRequest(disk="data")),
        (Verb.ATTACH_DISK, AttachDiskRequest(name="more", size_gib=1)),
    ],
)
def test_meanwhile_nothing_is_done_to_them(life: Laden, verb: Verb, body: Any) -> None:
    life.shelve()
    with pytest.raises(Conflict, match=f"shelved cannot {verb}: it has to be active or stopped"):
        life.ask(verb, body)
    with pytest.raises(Conflict, match="'web' has disk 'data'"):
        disks.delete(_disk("data").id, project_id=None, actor="me")


def _disk(name: str) -> DataDisk:
    with transaction() as session:
        return session.query(DataDisk).filter(DataDisk.name == name).one()


def test_deleting_it_asks_no_host_and_leaves_nothing(
    life: Laden, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.shelve()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no host has anything of it")

    monkeypatch.setattr(guest, "destroy", refuse)
    monkeypatch.setattr(storage, "delete_volume", refuse)
    life.do(Verb.DELETE)
    monkeypatch.undo()
    assert shelf.sizes() == {}
    with transaction() as session:
        assert session.query(ShelfFile).all() == session.query(DataDisk).all() == []
        assert session.get_one(Server, life.server_id).reserved is False
        held = reservations.reserved_by_project(session, life.catalogue.project_id)
        kept = layering.held(session, life.catalogue.project_id)
    assert (held.disk_gib, kept.snapshots) == (0, 0)
    assert survey.audit() == []


def test_deleting_it_removes_what_its_host_could_not(life: Laden) -> None:
    life.do(Verb.SHELVE, failing="adopt-shelf")
    assert life.volumes("alpha")
    life.do(Verb.DELETE)
    assert (life.volumes("alpha"), artifacts(), shelf.sizes()) == ([], {}, {})
    assert survey.audit() == []


def test_what_is_to_outlive_it_keeps_it_from_being_deleted_on_the_shelf(life: Laden) -> None:
    life.attach("archive", size_gib=1, delete_on_server_delete=False)
    life.shelve()
    kept = life.shelved()
    refused = r"data disks archive are to outlive it.*`innkeeper server unshelve web`"
    with pytest.raises(Conflict, match=refused):
        life.ask(Verb.DELETE)
    assert life.shelved() == kept
    life.unshelve("beta")
    life.do(Verb.DELETE)
    assert life.volumes("beta") == [_disk("archive").volume]
    assert survey.audit() == []


def test_a_snapshot_that_is_to_stay_is_named_with_the_way_out(life: Laden) -> None:
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="stays", delete_on_server_delete=False))
    life.shelve()
    with pytest.raises(
        Conflict, match=r"stay: stays\. Unshelve it first \(.*\)\. Delete them first"
    ):
        life.ask(Verb.DELETE)


def test_a_file_that_is_missing_is_told_and_stops_the_unshelving(life: Laden) -> None:
    life.shelve()
    with transaction() as session:
        row = session.query(ShelfFile).filter(ShelfFile.volume == _disk("rules").volume).one()
        session.delete(row)
    shelf.remove(row.name)
    (finding,) = survey.audit()
    assert (finding.kind, finding.reapable) == ("shelf", False)
    assert f"has no file of {row.volume}" in finding.problem
    ended = carried(life.ask(Verb.UNSHELVE))
    assert f"has no whole file of {row.volume}" in (ended.error or "")
    assert (life.view.status, life.volumes("alpha")) == (Status.SHELVED, [])


def test_a_data_disk_that_we_did_not_leave_there_is_left_alone(life: Laden) -> None:
    """The database may be older than what it tells of: a backup was restored."""
    life.shelve()
    conn, disk = life.conn("alpha"), _disk("data")
    storage.ensure_volume(conn, POOL, disk.volume, 1 << 20)
    (finding,) = survey.audit()
    assert (finding.kind, finding.name, finding.reapable) == ("data-disk", disk.volume, False)
    reconcile.reap(life.catalogue.host_ids["alpha"], [finding])
    assert disk.volume in storage.volume_names(conn, POOL)


def test_a_plan_tells_what_goes_along(life: Laden) -> None:
    names = (
        "Snapshots that go along: asleep, plain, branch.",
        "Data disks that go along: data, rules.",
    )
    for verb in (Verb.SHELVE, Verb.UNSHELVE):
        before = used("alpha")
        with pytest.raises(Foreseen) as end:
            accept.request(
                verb,
                life.server_id,
                project_id=None,
                actor="me",
                foresight=Foresight(dry_run=True),
            )
        plan = end.value.plan
        assert set(names) <= set(plan.warnings)
        assert used("alpha") == before
        if verb is Verb.SHELVE:
            assert plan.host
            room = plan.host.free_disk_gib
            life.shelve()
            (alpha,) = [h for h in _capacities() if h.name == "alpha"]
            assert alpha.free.disk_gib == room


def _capacities() -> list[reservations.Capacity]:
    with transaction() as session:
        return reservations.capacities(session, lock=False)


def test_the_next_attempt_makes_what_is_not_whole(
    life: Laden, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = life.ask(Verb.SHELVE)
    from tasks.step import declared  # noqa: PLC0415

    made: list[str] = []
    keep = shelves.keep

    def third_is_deadly(held: Any, volume: str, file: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(volume)
        keep(held, volume, file)

    monkeypatch.setattr(shelves, "keep", third_is_deadly)
    held = journal.claim(view.id)
    with pytest.raises(KeyboardInterrupt):
        declared("shelve-snapshots")._attempt(held, undo=False)
    monkeypatch.undo()
    before = _names(life.server_id)
    assert len(before) == 3
    reconcile.requeue(view.id, held.attempt, "it died")
    ended = carried(view)
    assert ended.phase == "succeeded", ended.error
    after = _names(life.server_id)
    assert {volume: after[volume] for volume in made} == {volume: before[volume] for volume in made}
    (again,) = set(before) - set(made)
    assert after[again] != before[again], "no two attempts write to one file"
    assert len(life.shelved()) == FILES
    assert survey.audit() == []


def _names(server_id: UUID) -> dict[str, str]:
    with transaction() as session:
        rows = session.query(ShelfFile).filter(ShelfFile.server_id == server_id)
        return {row.volume: row.name for row in rows}
