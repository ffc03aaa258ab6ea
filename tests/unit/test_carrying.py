"""What goes along with a server that migrates: snapshots and data disks, on simulated hosts.

That the content is the same needs real files: tests/e2e/test_carrying.py.
"""

import pytest
from conftest import Catalogue
from journaled import artifacts, carried
from two_hosts import NOTHING, Life, used

from innkeeper.db.models import DataDisk, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.naming import POOL, disk_of
from innkeeper.domain.specs import (
    DeleteSnapshotRequest,
    MigrateRequest,
    RevertRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.domain.steps import STEPS
from innkeeper.errors import NoHostFits
from innkeeper.hypervisor import disks as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import Absent
from innkeeper.services import (
    accept,
    disks,
    journal,
    operations,
    reconcile,
    snapshots,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan
from tasks import reconciliation
from tasks.files import DiskInUse
from tasks.step import declared

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)
DISKS = {"data": 2, "fixed": 3}
UNDOABLE = STEPS[Verb.MIGRATE][: STEPS[Verb.MIGRATE].index("switch-over")]
REMOVING = STEPS[Verb.MIGRATE][STEPS[Verb.MIGRATE].index("remove-forward") : -1]


class Laden(Life):
    """A server with a tree of snapshots: two branches, and memories."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.snapshot("first", memory=True)
        self.snapshot("second")
        self.do(Verb.REVERT, RevertRequest(snapshot="first"))
        self.snapshot("branch", memory=True)
        self.do(Verb.ATTACH_DISK, AttachDiskRequest(name="data", size_gib=2, iops=50))
        fixed = AttachDiskRequest(name="fixed", size_gib=3, format="raw", read_only=True)
        self.do(Verb.ATTACH_DISK, fixed)

    def disks(self, host: str) -> dict[str, int]:
        """Return the data disks that are on a host, by their names, and their sizes in GiB."""
        conn = self.conn(host)
        try:
            there = storage.volume_names(conn, POOL)
        except Absent:
            return {}
        with transaction() as session:
            rows = {row.volume: row.name for row in session.query(DataDisk)}
        return {
            rows[name]: storage.capacity(conn, POOL, name) >> 30 for name in there if disk_of(name)
        }

    def stands(self, home: str) -> None:
        """Assert that all is on one host, nothing on the other, and the database says so."""
        other = {"alpha": "beta", "beta": "alpha"}[home]
        assert self.view.host == home
        assert (self.disks(home), self.disks(other)) == (DISKS, {})
        assert self.here(other) == NOTHING
        assert {disk.host for disk in disks.page().items} == {home}
        assert adapter.serials(self.conn(home), self.server_id, defined=True) == {
            disk.device.rpartition("-")[2] for disk in disks.page().items
        }
        assert (used(home), used(other)) == ((1, 192, 1 + 2 + 3), (0, 0, 0))
        assert survey.audit() == []

    def snapshot(self, name: str, *, memory: bool = False) -> None:
        self.do(Verb.SNAPSHOT, SnapshotRequest(name=name, memory=memory))

    def rows(self) -> list[DataDisk]:
        with transaction() as session:
            return session.query(DataDisk).order_by(DataDisk.name).all()

    def tree(self, host: str) -> dict[str, str | None]:
        """Return the server's layers on a host, and what each leans on."""
        layers = [n for n in self.here(host)[1] if n.endswith(".qcow2")]
        found = {name: storage.leans_on(self.conn(host), POOL, name) for name in layers}
        return {name: below.name if below else None for name, below in found.items()}

    def plan(self, body: MigrateRequest) -> ChangePlan:
        with pytest.raises(Foreseen) as told:
            accept.request(
                Verb.MIGRATE,
                self.server_id,
                body,
                project_id=None,
                actor="me",
                foresight=Foresight(dry_run=True),
            )
        return told.value.plan


@pytest.fixture
def laden(catalogue: Catalogue) -> Laden:
    return Laden(catalogue)


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.STOPPED])
def test_all_snapshots_go_along_and_are_of_use_there(laden: Laden, status: Status) -> None:
    if status is Status.STOPPED:
        laden.do(Verb.STOP)
    files, tree, rows = laden.here("alpha")[1], laden.tree("alpha"), artifacts()
    assert len(files) == 2 + 3 + 2
    laden.do(Verb.MIGRATE, COLD)
    assert (laden.view.host, laden.view.status) == ("beta", status)
    assert (laden.here("beta")[1], laden.tree("beta"), artifacts()) == (files, tree, rows)
    laden.stands("beta")
    laden.do(Verb.REVERT, RevertRequest(snapshot="second"))
    laden.do(Verb.VERIFY_SNAPSHOT, VerifySnapshotRequest(snapshot="branch"))
    laden.do(Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot="first"))
    assert survey.audit() == []
    assert {view.name for view in snapshots.page(laden.server_id).items} == {"second", "branch"}
    laden.do(Verb.MIGRATE, COLD)
    laden.stands("alpha")


def test_both_hosts_hold_the_disks_until_the_end(laden: Laden) -> None:
    view = laden.ask(Verb.MIGRATE, COLD)
    assert (used("alpha"), used("beta")) == ((1, 192, 6), (1, 192, 6))
    carried(view)
    laden.stands("beta")


@pytest.mark.parametrize("failing", UNDOABLE)
def test_an_undone_migration_leaves_all_as_it_was(laden: Laden, failing: str) -> None:
    files, tree, rows = laden.here("alpha"), laden.tree("alpha"), artifacts()
    laden.do(Verb.MIGRATE, COLD, failing=failing)
    assert (laden.here("alpha"), laden.tree("alpha"), artifacts()) == (files, tree, rows)
    laden.stands("alpha")


@pytest.mark.parametrize("failing", REMOVING)
def test_what_could_not_be_removed_is_reaped(laden: Laden, failing: str) -> None:
    files = laden.here("alpha")[1]
    laden.do(Verb.MIGRATE, COLD, failing=failing)
    assert (laden.view.status, laden.view.host) == (Status.ACTIVE, "beta")
    reconciliation.mend_host(laden.catalogue.host_ids["alpha"])
    laden.stands("beta")
    assert laden.here("beta")[1] == files


def test_a_copy_that_was_left_is_never_reaped_once_it_is_the_disk_again(laden: Laden) -> None:
    """The old host was silent when its copies were to be removed; then the server came back."""
    laden.do(Verb.MIGRATE, COLD, failing="remove-forward")
    left = survey.survey(laden.catalogue.host_ids["alpha"])
    assert {finding.name for finding in left if disk_of(finding.name)} == {
        row.volume for row in laden.rows()
    }
    laden.do(Verb.MIGRATE, COLD)
    reconcile.reap(laden.catalogue.host_ids["alpha"], left)
    reconciliation.mend_host(laden.catalogue.host_ids["beta"])
    laden.stands("alpha")


def test_a_copy_whose_disk_has_changed_hands_is_reaped_but_not_while_it_moves(
    laden: Laden,
) -> None:
    laden.do(Verb.MIGRATE, COLD, failing="remove-forward")
    left = survey.survey(laden.catalogue.host_ids["alpha"])
    first = laden.server_id
    for row in laden.rows():
        laden.do(Verb.DETACH_DISK, DetachDiskRequest(disk=row.name, keep=True))
    laden.catalogue.set_hosts("alpha", enabled=False)
    laden.server_id = laden.create("second")
    for row in laden.rows():
        laden.do(Verb.ATTACH_DISK, AttachDiskRequest(name=row.name))
    laden.catalogue.set_hosts("alpha", enabled=True)
    held = journal.claim(laden.ask(Verb.MIGRATE, COLD).id)
    for name in STEPS[Verb.MIGRATE][: STEPS[Verb.MIGRATE].index("domain")]:
        declared(name)._attempt(held, undo=False)
    reconcile.reap(laden.catalogue.host_ids["alpha"], left)
    assert laden.disks("alpha") == DISKS, "they are the second server's by now"
    reconcile.requeue(held.operation_id, held.attempt, "dead")
    assert carried(operations.get(held.operation_id)).phase is Phase.SUCCEEDED
    laden.server_id = first
    assert laden.here("alpha") == NOTHING
    reconciliation.mend_host(laden.catalogue.host_ids["beta"])
    assert (laden.disks("alpha"), laden.disks("beta")) == (DISKS, {})
    assert survey.audit() == []


def test_data_disks_stay_until_the_server_has_moved(laden: Laden) -> None:
    held = journal.claim(laden.ask(Verb.MIGRATE, COLD).id)
    with pytest.raises(DiskInUse, match="its data disks stay"):
        declared("remove-data-disks")._attempt(held, undo=False)
    assert laden.disks("alpha") == DISKS


def test_the_plan_names_what_goes_along(laden: Laden) -> None:
    warnings = laden.plan(COLD).warnings
    assert "Snapshots that go along: first, second, branch." in warnings
    assert "Data disks that go along: data, fixed." in warnings
    assert "its 3 disks are copied" in laden.plan(COLD).interruption


def test_a_host_without_room_for_all_is_not_chosen(laden: Laden) -> None:
    with transaction() as session:
        for row in session.query(Snapshot):
            row.size_bytes = 3 << 30
    laden.catalogue.set_hosts("beta", disk_gib=1 + 9 + 5 - 1)
    with pytest.raises(NoHostFits, match="disk"):
        laden.ask(Verb.MIGRATE, COLD)
    laden.catalogue.set_hosts("beta", disk_gib=1 + 9 + 5)
    laden.do(Verb.MIGRATE, COLD)
    assert laden.view.host == "beta"
