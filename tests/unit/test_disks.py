"""Data disks on simulated hosts: attached, grown, detached, kept, undone."""

from typing import Any

import pytest
from conftest import Catalogue
from disk_life import (
    agreed,
    ask,
    attach,
    detach,
    found,
    grow,
)
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import DataDisk, Event, Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import RevertRequest
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.services import (
    journal,
    operations,
    servers,
    survey,
)
from tasks import reconciliation
from tasks.files import DiskInUse
from tasks.step import declared


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


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
