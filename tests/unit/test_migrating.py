"""Migrating between two simulated hosts, without Prefect's engine.

Live migration needs a real libvirt: tests/e2e/test_migration.py. What a kill does is shown by
tests/flows/test_kill_matrix.py.
"""

import logging
from uuid import UUID

import pytest
from conftest import Catalogue
from journaled import artifacts, carried
from two_hosts import NOTHING, Life, used

from innkeeper.contracts import Claim
from innkeeper.db.models import (
    Address,
    Host,
    Network,
    Nic,
    Operation,
    PortForward,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import MigrateRequest
from innkeeper.domain.steps import STEPS, is_at_new_host
from innkeeper.errors import Conflict, HostUnreachable
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import (
    edges,
    hosts,
    journal,
    migrating,
    operations,
    reconcile,
    reservations,
    servers,
    survey,
)
from innkeeper.services.views import OperationView
from tasks import reconciliation
from tasks.seed import instance_of
from tasks.step import declared

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)
UNDOABLE = STEPS[Verb.MIGRATE][: STEPS[Verb.MIGRATE].index("switch-over")]


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def other(host: str | None) -> str:
    return {"alpha": "beta", "beta": "alpha"}[host or ""]


def forwards(host_id: UUID) -> dict[int, tuple[str, int]]:
    return edges.rules(host_id).forwards


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.STOPPED])
def test_a_server_moves_with_all_that_is_its_own(life: Life, status: Status) -> None:
    if status is Status.STOPPED:
        life.do(Verb.STOP)
    before = life.view
    ended = life.do(Verb.MIGRATE, COLD)
    after = life.view
    assert survey.audit() == []
    assert (before.host, after.host, after.status) == ("alpha", "beta", status)
    kept = ("address", "mac", "ssh_port", "host_key", "name", "id")
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    assert life.here("alpha") == NOTHING
    domains, volumes, macs = life.here("beta")
    assert (len(domains), len(volumes), len(macs)) == (1, 2, 1)
    wanted = PowerState.RUNNING if status is Status.ACTIVE else PowerState.OFF
    assert guest.power_state(life.conn("beta"), life.server_id) is wanted
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (1, 192, 1))
    assert set(artifacts().values()) == {"present"}
    assert len(artifacts()) == 5
    ids = life.catalogue.host_ids
    assert forwards(ids["alpha"]) == {}
    assert list(forwards(ids["beta"])) == [before.ssh_port]
    assert ended.verdict is not None
    assert ended.verdict["chosen"] == str(ids["beta"])
    life.do(Verb.MIGRATE, COLD)
    assert life.view.host == "alpha"
    assert survey.audit() == []


def test_both_hosts_are_accounted_for_until_the_end_and_the_quota_is_not_touched(
    life: Life,
) -> None:
    def held() -> object:
        with transaction() as session:
            return reservations.reserved_by_project(session, life.catalogue.project_id)

    before = held()
    view = life.ask(Verb.MIGRATE, COLD)
    assert (used("alpha"), used("beta"), held()) == ((1, 192, 1), (1, 192, 1), before)
    assert life.view.host == "alpha"
    with pytest.raises(Conflict, match="live on 'beta'"):
        hosts.remove(life.catalogue.host_ids["beta"])
    carried(view)
    assert (used("alpha"), used("beta"), held()) == ((0, 0, 0), (1, 192, 1), before)


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.STOPPED])
@pytest.mark.parametrize("failing", UNDOABLE)
def test_an_undone_migration_leaves_all_as_it_was(life: Life, failing: str, status: Status) -> None:
    if status is Status.STOPPED:
        life.do(Verb.STOP)
    before, things = life.here("alpha"), artifacts()
    life.do(Verb.MIGRATE, COLD, failing=failing)
    assert (life.view.status, life.view.host) == (status, "alpha")
    assert (life.here("alpha"), life.here("beta")) == (before, NOTHING)
    assert artifacts() == things
    assert (used("alpha"), used("beta")) == ((1, 192, 1), (0, 0, 0))
    wanted = PowerState.RUNNING if status is Status.ACTIVE else PowerState.OFF
    assert guest.power_state(life.conn("alpha"), life.server_id) is wanted
    assert survey.audit() == []
    life.do(Verb.MIGRATE, COLD)
    assert life.view.host == "beta"


@pytest.mark.parametrize("failing", ["switch-over", "remove-forward", "undefine", "remove-volume"])
def test_past_the_switch_it_stays_and_what_is_left_is_reaped(life: Life, failing: str) -> None:
    life.do(Verb.MIGRATE, COLD, failing=failing)
    assert (life.view.status, life.view.host) == (Status.ACTIVE, "beta")
    assert guest.power_state(life.conn("beta"), life.server_id) is PowerState.RUNNING
    assert guest.power_state(life.conn("alpha"), life.server_id) is not PowerState.RUNNING
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert survey.audit() == []
    assert life.here("alpha") == NOTHING
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (1, 192, 1))


def _until(life: Life, step: str, view: OperationView) -> Claim:
    """Do the steps before one."""
    held = journal.claim(view.id)
    for name in STEPS[Verb.MIGRATE][: STEPS[Verb.MIGRATE].index(step)]:
        declared(name)._attempt(held, undo=False)
    return held


def _dead(*_: object) -> None:
    raise KeyboardInterrupt


def test_killed_between_the_guests_start_there_and_its_commit_it_goes_on_there(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = life.ask(Verb.MIGRATE, COLD)
    held = _until(life, "switch-over", view)
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "switch_host", _dead)
        with pytest.raises(KeyboardInterrupt):
            declared("switch-over")._attempt(held, undo=False)
    assert life.view.host == "alpha"
    assert guest.power_state(life.conn("beta"), life.server_id) is PowerState.RUNNING
    run = guest.domain_run_id(life.conn("beta"), life.server_id)
    assert reconcile.requeue(view.id, held.attempt, "dead") is not None
    ended = carried(operations.get(view.id))
    assert ended.phase is Phase.SUCCEEDED, ended.error
    assert life.view.host == "beta"
    assert guest.domain_run_id(life.conn("beta"), life.server_id) == run, "started once"
    assert survey.audit() == []


def test_undone_after_the_guest_runs_there_it_stays_there(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = life.ask(Verb.MIGRATE, COLD)
    held = _until(life, "switch-over", view)
    with monkeypatch.context() as patch:
        patch.setattr(migrating, "switch_host", _dead)
        with pytest.raises(KeyboardInterrupt):
            declared("switch-over")._attempt(held, undo=False)
    for begun in journal.undoing(held, "given up"):
        if declared(begun.name).undo:
            declared(begun.name)._attempt(held, undo=True)
    journal.undone(held)
    assert (life.view.host, life.view.status) == ("beta", Status.ACTIVE)
    assert guest.power_state(life.conn("beta"), life.server_id) is PowerState.RUNNING
    assert guest.power_state(life.conn("alpha"), life.server_id) is PowerState.OFF
    for host_id in life.catalogue.host_ids.values():
        reconciliation.mend_host(host_id)
    assert survey.audit() == []
    assert life.here("alpha") == NOTHING
    assert len(life.here("beta")[1]) == 2


def test_somebody_who_starts_it_meanwhile_is_not_lost(life: Life) -> None:
    view = life.ask(Verb.MIGRATE, COLD)
    held = _until(life, "switch-over", view)
    guest.start(life.conn("alpha"), life.server_id)  # with virsh
    with pytest.raises(Exception, match="running while it is moved"):
        declared("switch-over")._attempt(held, undo=False)
    assert guest.power_state(life.conn("beta"), life.server_id) is PowerState.OFF


def test_reconcile_touches_nothing_of_a_server_that_moves(life: Life) -> None:
    view = life.ask(Verb.MIGRATE, COLD)
    held = _until(life, "remove-forward", view)
    for host_id in life.catalogue.host_ids.values():
        assert survey.survey(host_id) == []
        assert reconciliation.mend_host(host_id) == []
    assert len(life.here("alpha")[1]) == 2
    for name in STEPS[Verb.MIGRATE][STEPS[Verb.MIGRATE].index("remove-forward") :]:
        declared(name)._attempt(held, undo=False)
    journal.complete(held)
    assert survey.audit() == []


def test_what_the_old_host_tells_is_ignored(life: Life) -> None:
    life.do(Verb.MIGRATE, COLD)
    off = PowerState.OFF
    alpha, beta = (life.catalogue.host_ids[name] for name in ("alpha", "beta"))
    assert not reconcile.observe_power(life.server_id, off, "migrated", host_id=alpha)
    assert life.view.status is Status.ACTIVE
    assert reconcile.observe_power(life.server_id, off, "shutdown", host_id=beta)


def test_a_guest_knows_no_first_boot_on_its_new_host(life: Life) -> None:
    with transaction() as session:
        first = session.query(Operation).filter(Operation.verb == Verb.CREATE).one().id
    view = life.ask(Verb.MIGRATE, COLD)
    held = journal.claim(view.id)
    assert instance_of(journal.begin(held, "seed")) == f"{life.server_id}-{first.hex[:8]}"


async def test_a_new_host_that_fell_silent_does_not_keep_the_guest_from_coming_back(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import operation  # noqa: PLC0415

    view = life.ask(Verb.MIGRATE, COLD)
    held = _until(life, "switch-over", view)
    asked = []

    async def run_undo(name: str) -> None:
        asked.append(name)
        if is_at_new_host(Verb.MIGRATE, name):
            raise HostUnreachable("The host beta does not answer.")
        declared(name)._attempt(held, undo=True)

    class Undo:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run_undo(self, _claim: object) -> None:
            if declared(self.name).undo:
                await run_undo(self.name)

    monkeypatch.setattr(operation, "declared", Undo)
    monkeypatch.setattr(operation, "get_run_logger", lambda: logging.getLogger(__name__))
    await operation._undo(held, HostUnreachable("The host beta does not answer."))
    assert asked == ["forward", "stand-by"], "the silent host is asked once"
    assert (life.view.status, life.view.host) == (Status.ACTIVE, "alpha")
    assert guest.power_state(life.conn("alpha"), life.server_id) is PowerState.RUNNING
    assert life.here("beta")[0] == [life.server_id]
    reconciliation.mend_host(life.catalogue.host_ids["beta"])
    assert life.here("beta") == NOTHING
    assert survey.audit() == []
    assert servers.get(life.server_id).operation_id is None
    with transaction() as session:
        assert session.query(PortForward).count() == 1
        nic = session.query(Nic).one()
        address = session.query(Address).one()
        home = session.get_one(Network, nic.network_id)
        assert address.network_id == home.id
        assert session.get_one(Host, home.host_id).name == "alpha"


def test_past_the_point_of_no_return_a_wish_to_cancel_is_not_heard(life: Life) -> None:
    held = journal.claim(life.ask(Verb.MIGRATE, MigrateRequest(allow_power_cycle=True)).id)
    operations.cancel(held.operation_id, None, "me")
    assert journal.cancelled(held)
    with transaction() as session:
        operation = session.get_one(Operation, held.operation_id)
        operation.request = operation.request | {journal.COMMITTED: True}
    assert not journal.cancelled(held)
