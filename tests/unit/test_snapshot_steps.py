"""The steps of snapshots on simulated hosts, one after the other and without Prefect's engine.

What a kill does to them is shown by tests/flows/test_kill_matrix.py.
"""

from datetime import timedelta
from typing import Literal

import pytest
from conftest import Catalogue
from stepwise import Life

from innkeeper.db.models import Artifact, Disk, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.specs import RevertRequest, SnapshotRequest, SuspendRequest
from innkeeper.domain.steps import STEPS
from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor import suspension
from innkeeper.services import accept, operations, servers, snapshots, survey
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def test_a_snapshot_freezes_the_disk_and_the_server_goes_on_above(life: Life) -> None:
    root = life.disk
    life.take("one", memory=True)
    assert life.files()[life.disk] == root == life.volume("one")
    view = snapshots.get(life.server_id, "one")
    assert (view.phase, view.kind, view.current) == ("ready", "memory", True)
    with transaction() as session:
        rows = session.query(Artifact).filter(Artifact.server_id == life.server_id).all()
        assert {row.state for row in rows} == {"present"}
        assert [row.name for row in rows if row.kind == "snapshot"] == [
            f"{life.server_id}-snap-{view.id.hex}.mem"
        ]


@pytest.mark.parametrize("failing", STEPS[Verb.SNAPSHOT][:-1])
def test_a_failed_snapshot_leaves_the_server_as_it_was(life: Life, failing: str) -> None:
    life.take("one")
    before, disk = life.files(), life.disk
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="two", memory=True), failing=failing)
    assert (life.files(), life.disk) == (before, disk)
    assert snapshots.get(life.server_id, "two").phase == "failed"
    life.take("two")
    life.delete("two")


def test_a_revert_makes_a_branch_and_gives_the_old_disk_up(life: Life) -> None:
    life.take("one")
    life.take("two", memory=True)
    given_up = life.disk
    life.do(Verb.STOP)
    life.do(Verb.REVERT, RevertRequest(snapshot="one"))
    assert servers.get(life.server_id).status is Status.STOPPED
    assert given_up not in life.files()
    assert life.files()[life.disk] == life.volume("one")
    life.do(Verb.REVERT, RevertRequest(snapshot="two"))
    assert servers.get(life.server_id).status is Status.ACTIVE, "its memory goes on"
    assert life.files()[life.disk] == life.volume("two")


@pytest.mark.parametrize("failing", ["fresh-layer", "switch-layer", "go-on"])
def test_a_failed_revert_leaves_the_server_as_it_was(life: Life, failing: str) -> None:
    life.take("one")
    before, disk = life.files(), life.disk
    life.do(Verb.REVERT, RevertRequest(snapshot="one"), failing=failing)
    assert (life.files(), life.disk) == (before, disk)
    assert servers.get(life.server_id).status is Status.ACTIVE
    assert snapshots.get(life.server_id, "one").phase == "ready"


@pytest.mark.parametrize("running", [True, False])
def test_a_snapshot_in_the_middle_goes_and_its_neighbours_stay(life: Life, running: bool) -> None:
    for name in ("first", "middle", "branch"):
        life.take(name, memory=name == "middle")
    life.do(Verb.REVERT, RevertRequest(snapshot="middle"))
    life.take("last")
    if not running:
        life.do(Verb.STOP)
    life.delete("middle")
    files = life.files()
    assert not [name for name in files if name.endswith(".mem")]
    assert len(files) == 5, "disk, seed, three snapshots"
    assert files[life.disk] == life.volume("last")
    for name in ("branch", "last"):
        assert files[life.volume(name)] == life.volume("first")
    for name in ("last", "first", "branch"):
        life.delete(name)
    assert len(life.files()) == 2
    assert life.files()[life.disk].startswith("image-")


def test_what_cannot_be_merged_is_kept(life: Life) -> None:
    life.take("one")
    life.take("two")
    life.delete("one", failing="merge")
    assert snapshots.get(life.server_id, "one").phase == "failed", "half of it is another's now"
    life.delete("one")
    assert [view.name for view in snapshots.page(life.server_id).items] == ["two"]


def test_retention_deletes_one_after_the_other(life: Life) -> None:
    for name in ("one", "two"):
        life.take(name, max_age=60)
    life.take("three")
    assert reconciliation.expire() == []
    with transaction() as session:
        for row in session.query(Snapshot).filter(Snapshot.max_age_seconds == 60):
            row.created_at -= timedelta(seconds=61)
    for name in ("one", "two"):
        assert reconciliation.expire() == [name]
        assert reconciliation.expire() == [], "the server is busy"
        (waiting,) = operations.awaiting_dispatch(0)
        assert (waiting.verb, waiting.actor) == (Verb.DELETE_SNAPSHOT, "retention")
        life.carry(waiting)
    assert [view.name for view in snapshots.page(life.server_id).items] == ["three"]
    assert survey.audit() == []


def test_a_deleted_server_takes_its_snapshots_along(life: Life) -> None:
    life.take("one", memory=True)
    life.take("two")
    life.do(Verb.DELETE)
    assert life.files() == {}
    with transaction() as session:
        assert session.query(Artifact).all() == []


def test_what_a_domain_lies_on_is_never_reaped(life: Life) -> None:
    """However the database came to name another file: the guest's data is in this one."""
    life.take("one")
    top = life.disk
    with transaction() as session:
        session.query(Disk).filter(Disk.server_id == life.server_id).one().volume = "another"
        host_id = session.get_one(Server, life.server_id).host_id
        session.query(Artifact).filter(Artifact.name == top).delete()
    assert host_id is not None
    findings = {found.name: found for found in survey.survey(host_id)}
    assert "database names another file" in findings[top].problem
    reconciliation.mend_host(host_id)
    assert top in life.files()


@pytest.mark.parametrize("mode", ["save", "pause"])
def test_one_of_a_server_that_sleeps(life: Life, mode: Literal["save", "pause"]) -> None:
    root = life.disk
    life.do(Verb.SUSPEND, SuspendRequest(mode=mode))
    life.take("one")
    assert servers.get(life.server_id).status is Status.SUSPENDED
    assert snapshots.get(life.server_id, "one").kind == "crash-consistent"
    assert life.files()[life.disk] == root == life.volume("one")
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="two"), failing="capture")
    assert life.files()[life.disk] == root
    for body, words in (
        (SnapshotRequest(quiesce="required"), "'web' is suspended, nobody in it can quiesce"),
        (SnapshotRequest(memory=True), "'web' is suspended, and QEMU cannot keep .* resume it"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            life.do(Verb.SNAPSHOT, body)
    life.do(Verb.RESUME)
    for view in snapshots.page(life.server_id).items:
        life.delete(str(view.id))
    assert len(life.files()) == 2


@pytest.mark.parametrize("memory", [True, False])
def test_one_that_is_saved_behind_our_back(life: Life, memory: bool) -> None:
    body = SnapshotRequest(name="one", memory=memory)
    view = accept.request(Verb.SNAPSHOT, life.server_id, body, project_id=None, actor="me")
    suspension.save(life.conn, life.server_id)
    ended = life.carry(view)
    assert ended.phase == ("failed" if memory else "succeeded")
    assert ("no memory to keep" in (ended.error or "")) == memory
    assert len(life.files()) == 2 + (not memory)
