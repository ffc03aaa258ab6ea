"""The steps of clones on simulated hosts, one after the other and without Prefect's engine.

What a kill does to them is shown by tests/flows/test_kill_matrix.py.
"""

import pytest
from conftest import Catalogue
from stepwise import Life

from innkeeper.db.models import Artifact, Disk, Nic, Operation, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import CloneRequest, RevertRequest, SnapshotRequest
from innkeeper.domain.steps import STEPS
from innkeeper.errors import Conflict, NotFound, OperationCancelled
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import accept, journal, operations, servers, snapshots, survey
from tasks import reconciliation
from tasks.step import declared

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def base_of(life: Life) -> str | None:
    """Return the frozen file that a disk stands on, as the database knows it."""
    with transaction() as session:
        disk = session.query(Disk).filter(Disk.server_id == life.server_id).one()
        base = session.get(Snapshot, disk.base_snapshot_id) if disk.base_snapshot_id else None
        return base.volume if base else None


def sweep(life: Life) -> None:
    """Do what reconcile asks for, until it asks for nothing."""
    while reconciliation.expire():
        for waiting in operations.awaiting_dispatch(0):
            life.carry(waiting)


@pytest.mark.parametrize("running", [True, False])
def test_a_linked_clone_stands_on_the_frozen_disk(life: Life, running: bool) -> None:
    if not running:
        life.do(Verb.STOP)
    root = life.disk
    twin = life.clone("twin")
    assert life.files()[life.disk] == root, "the source goes on above"
    assert twin.files()[twin.disk] == root == base_of(twin)
    source, clone = servers.get(life.server_id), servers.get(twin.server_id)
    assert source.status == (Status.ACTIVE if running else Status.STOPPED)
    assert (clone.status, clone.host) == (Status.ACTIVE, source.host)
    for fact in ("address", "mac", "ssh_port", "host_key"):
        assert getattr(clone, fact) != getattr(source, fact), fact
    assert guest.power_state(twin.conn, twin.server_id) is PowerState.RUNNING
    assert len(twin.files()) == 2
    (snapshot,) = snapshots.page(life.server_id).items
    assert (snapshot.name, snapshot.phase) == ("clone-twin", "ready")


def test_a_full_clone_stands_on_the_image_and_its_source_is_free(life: Life) -> None:
    twin = life.clone("twin", mode="full")
    assert twin.files()[twin.disk].startswith("image-")
    assert base_of(twin) is None
    sweep(life)
    assert len(life.files()) == 2, "what was frozen for it is merged away"
    life.do(Verb.DELETE)
    assert len(twin.files()) == 2


def test_a_clone_of_a_snapshot_lets_its_source_alone(life: Life) -> None:
    life.take("one")
    life.take("two")
    before, disk = life.files(), life.disk
    twin = life.clone("twin", snapshot="one")
    assert (life.files(), life.disk) == (before, disk)
    assert base_of(twin) == life.volume("one")
    life.do(Verb.SUSPEND)
    life.clone("third", snapshot="two")
    with pytest.raises(Conflict, match="suspended cannot clone"):
        life.clone("fourth")


def test_the_source_is_held_until_it_is_frozen_and_then_goes_its_own_way(life: Life) -> None:
    view = accept.request(
        Verb.CLONE, life.server_id, CloneRequest(name="twin"), project_id=None, actor="me"
    )
    held = journal.claim(view.id)
    for name in STEPS[Verb.SNAPSHOT]:
        with pytest.raises(Conflict, match=f"Operation {view.id} is at work on 'web'"):
            life.do(Verb.STOP)
        declared(name)._attempt(held, undo=False)
    life.do(Verb.STOP)
    life.take("later")
    before, disk = life.files(), life.disk
    for _again in range(2):  # as a resumed run does
        for name in STEPS[Verb.CLONE]:
            declared(name)._attempt(held, undo=False)
    journal.complete(held)
    assert (life.files(), life.disk) == (before, disk)
    assert servers.get(life.server_id).status is Status.STOPPED
    assert survey.audit() == []


def test_a_parent_is_protected_and_names_its_clones(life: Life) -> None:
    life.take("below")
    one, two = life.clone("one"), life.clone("two")
    life.take("above")
    for verb, body in (
        (Verb.DELETE, None),
        (Verb.REBUILD, None),
        (Verb.REVERT, RevertRequest(snapshot="above")),
    ):
        with pytest.raises(Conflict, match=f"'web' cannot {verb}, .*: one, two. Flatten"):
            life.do(verb, body)
    for name, names in (("below", "one, two"), ("clone-one", "one, two"), ("clone-two", "two")):
        with pytest.raises(Conflict, match=f"stand on snapshot '{name}': {names}."):
            life.delete(name)
    life.delete("above")
    life.do(Verb.STOP)
    one.do(Verb.FLATTEN)
    two.do(Verb.DELETE)
    sweep(life)
    assert [view.name for view in snapshots.page(life.server_id).items] == ["below"]
    life.do(Verb.REVERT, RevertRequest(snapshot="below"))
    life.do(Verb.DELETE)
    assert one.files()[one.disk].startswith("image-")


@pytest.mark.parametrize("running", [True, False])
def test_a_flattened_clone_stands_alone(life: Life, running: bool) -> None:
    twin = life.clone("twin")
    if not running:
        twin.do(Verb.STOP)
    twin.take("mine")
    with pytest.raises(Conflict, match=r"'twin' cannot flatten, it has snapshots .*: mine"):
        twin.do(Verb.FLATTEN)
    twin.delete("mine")
    twin.do(Verb.FLATTEN)
    assert twin.files()[twin.disk].startswith("image-")
    assert servers.get(twin.server_id).status == (Status.ACTIVE if running else Status.STOPPED)
    with pytest.raises(Conflict, match="'twin' is no linked clone"):
        twin.do(Verb.FLATTEN)
    with pytest.raises(Conflict, match="'web' is no linked clone"):
        life.do(Verb.FLATTEN)


def test_a_clone_has_snapshots_and_clones_of_its_own(life: Life) -> None:
    root = life.disk
    twin = life.clone("twin")
    twin.take("mine")
    grandchild = twin.clone("grandchild")
    with pytest.raises(Conflict, match="stand on snapshot 'mine': grandchild"):
        twin.delete("mine")
    assert base_of(grandchild) == twin.volume("clone-grandchild")
    grandchild.do(Verb.FLATTEN)
    twin.delete("mine")
    assert twin.files()[twin.volume("clone-grandchild")] == root
    sweep(life)
    assert len(twin.files()) == 2
    assert twin.files()[twin.disk] == root, "its source is still needed"


@pytest.mark.parametrize(
    ("failing", "mode"),
    [*((step, "linked") for step in STEPS[Verb.CLONE]), ("copy", "full"), ("start", "full")],
)
def test_a_failed_clone_leaves_nothing(life: Life, failing: str, mode: str) -> None:
    life.take("one")
    before, disk = life.files(), life.disk
    twin = life.clone("twin", mode=mode, failing=failing)
    assert twin.files() == {}
    assert servers.get(twin.server_id).status is Status.ERROR
    assert servers.get(life.server_id).operation_id is None
    with transaction() as session:
        assert not session.get_one(Server, twin.server_id).reserved
        assert not session.query(Artifact).filter(Artifact.server_id == twin.server_id).all()
    frozen = STEPS[Verb.CLONE].index(failing) >= len(STEPS[Verb.SNAPSHOT]) - 1
    assert len(snapshots.page(life.server_id).items) == 1 + frozen
    sweep(life)
    assert len(life.files()) == len(before)
    assert frozen or life.disk == disk
    accept.request(Verb.DELETE, twin.server_id, project_id=None, actor="me")
    life.clone("twin", mode=mode)


def test_a_clone_that_is_cancelled_before_it_began_frees_its_source(life: Life) -> None:
    view = accept.request(
        Verb.CLONE, life.server_id, CloneRequest(name="twin"), project_id=None, actor="me"
    )
    operations.cancel(view.id, None, "me")
    assert life.carry(view).phase is Phase.CANCELLED
    assert servers.get(life.server_id).operation_id is None
    with pytest.raises(NotFound):
        snapshots.get(life.server_id, "clone-twin")
    life.clone("twin2")


def test_a_rebuilt_clone_needs_its_source_no_more(life: Life) -> None:
    twin = life.clone("twin")
    twin.do(Verb.REBUILD)
    assert base_of(twin) is None
    life.do(Verb.DELETE)


def test_what_people_took_themselves_is_not_swept(life: Life) -> None:
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="mine"))
    twin = life.clone("twin", snapshot="mine")
    twin.do(Verb.DELETE)
    sweep(life)
    assert [view.name for view in snapshots.page(life.server_id).items] == ["mine"]
    with transaction() as session:
        assert session.query(Operation).filter(Operation.actor == "retention").all() == []


def test_what_clones_stand_on_does_not_go_onto_the_shelf(life: Life) -> None:
    twin = life.clone("twin")
    with pytest.raises(Conflict, match="twin"):
        life.do(Verb.SHELVE)
    twin.do(Verb.FLATTEN)
    sweep(life)
    for one in (twin, life):
        one.do(Verb.SHELVE)
        one.do(Verb.UNSHELVE)
    assert guest.power_state(twin.conn, twin.server_id) is PowerState.RUNNING
    assert survey.audit() == []


def test_a_copied_disk_is_never_made_again_beneath_its_guest(life: Life) -> None:
    """However often the steps are begun again: a try that failed is not remembered as done."""
    body = CloneRequest(name="twin", mode="full")
    view = accept.request(Verb.CLONE, life.server_id, body, project_id=None, actor="me")
    held, twin = journal.claim(view.id), life.of(view.server_id)
    for name in STEPS[Verb.CLONE][:10]:
        declared(name)._attempt(held, undo=False)
    journal.begin(held, "clone-volume")
    journal.fail(held, "clone-volume", "its host was away")
    declared("clone-volume")._attempt(held, undo=False)
    assert twin.files()[twin.disk].startswith("image-")
    for name in STEPS[Verb.CLONE][10:]:
        declared(name)._attempt(held, undo=False)
    journal.complete(held)


def test_what_was_pulled_is_written_down_at_once(life: Life) -> None:
    twin = life.clone("twin")
    view = accept.request(Verb.FLATTEN, twin.server_id, project_id=None, actor="me")
    held = journal.claim(view.id)
    declared("pull-parent")._attempt(held, undo=False)
    operations.cancel(view.id, None, "me")
    with pytest.raises(OperationCancelled):
        declared("stand-alone")._attempt(held, undo=False)
    journal.undoing(held, "cancelled")
    journal.undone(held)
    assert base_of(twin) is None
    sweep(life)
    life.do(Verb.DELETE)


def test_a_clone_is_on_the_network_of_its_source(life: Life) -> None:
    twin = life.clone("twin")
    with transaction() as session:
        networks = {
            session.query(Nic).filter(Nic.server_id == one.server_id).one().network_id
            for one in (life, twin)
        }
    assert len(networks) == 1
