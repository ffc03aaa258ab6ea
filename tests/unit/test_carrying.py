"""What goes along with a server that migrates: snapshots, on two simulated hosts.

That the content is the same needs real files: tests/e2e/test_carrying.py.
"""

import pytest
from conftest import Catalogue
from journaled import artifacts
from two_hosts import NOTHING, Life, used

from innkeeper.db.models import Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.specs import (
    DeleteSnapshotRequest,
    MigrateRequest,
    RevertRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.domain.steps import STEPS
from innkeeper.errors import NoHostFits
from innkeeper.hypervisor import storage
from innkeeper.services import accept, snapshots, survey
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)
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

    def snapshot(self, name: str, *, memory: bool = False) -> None:
        self.do(Verb.SNAPSHOT, SnapshotRequest(name=name, memory=memory))

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
    assert laden.here("alpha") == NOTHING
    assert survey.audit() == []
    laden.do(Verb.REVERT, RevertRequest(snapshot="second"))
    laden.do(Verb.VERIFY_SNAPSHOT, VerifySnapshotRequest(snapshot="branch"))
    laden.do(Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot="first"))
    assert survey.audit() == []
    assert {view.name for view in snapshots.page(laden.server_id).items} == {"second", "branch"}
    laden.do(Verb.MIGRATE, COLD)
    assert (laden.view.host, laden.here("beta")) == ("alpha", NOTHING)
    assert survey.audit() == []


@pytest.mark.parametrize("failing", UNDOABLE)
def test_an_undone_migration_leaves_all_as_it_was(laden: Laden, failing: str) -> None:
    files, tree, rows, held = laden.here("alpha"), laden.tree("alpha"), artifacts(), used("alpha")
    laden.do(Verb.MIGRATE, COLD, failing=failing)
    assert (laden.here("alpha"), laden.tree("alpha"), artifacts()) == (files, tree, rows)
    assert laden.here("beta") == NOTHING
    assert (used("alpha"), used("beta")) == (held, (0, 0, 0))
    assert survey.audit() == []


@pytest.mark.parametrize("failing", REMOVING)
def test_what_could_not_be_removed_is_reaped(laden: Laden, failing: str) -> None:
    files = laden.here("alpha")[1]
    laden.do(Verb.MIGRATE, COLD, failing=failing)
    assert (laden.view.status, laden.view.host) == (Status.ACTIVE, "beta")
    reconciliation.mend_host(laden.catalogue.host_ids["alpha"])
    assert survey.audit() == []
    assert laden.here("alpha") == NOTHING
    assert laden.here("beta")[1] == files


def test_the_plan_names_what_goes_along(laden: Laden) -> None:
    warnings = laden.plan(COLD).warnings
    assert "Snapshots that go along: first, second, branch." in warnings


def test_a_host_without_room_for_the_snapshots_is_not_chosen(laden: Laden) -> None:
    with transaction() as session:
        for row in session.query(Snapshot):
            row.size_bytes = 3 << 30
    laden.catalogue.set_hosts("beta", disk_gib=9)
    with pytest.raises(NoHostFits, match="disk"):
        laden.ask(Verb.MIGRATE, COLD)
    laden.catalogue.set_hosts("beta", disk_gib=10)
    laden.do(Verb.MIGRATE, COLD)
    assert laden.view.host == "beta"
