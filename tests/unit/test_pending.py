"""Resizes that wait for a power cycle: what is held, what is shown, and who carries them out."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from api_client import Api, problem
from conftest import Catalogue
from sqlalchemy import select
from stepwise import Life

from innkeeper import dispatch
from innkeeper.db.models import Event, Host, Plan, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import MigrateRequest, RebootRequest, ResizeRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound, QuotaExceeded
from innkeeper.hypervisor import guest, shape
from innkeeper.services import accept, operations, pending, reservations, resizing, servers
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import OperationView, ServerView
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Waiting(Life):
    """A server on a simulated host, of which a resize may wait."""

    def defer(self, **fields: Any) -> OperationView:
        body = ResizeRequest(**({"defer": True} | fields))
        return accept.request(Verb.RESIZE, self.server_id, body, project_id=None, actor="alice")

    def ask(self, verb: Verb, **fields: Any) -> OperationView:
        body = RebootRequest(**fields) if fields else None
        return accept.request(verb, self.server_id, body, project_id=None, actor="bob")

    @property
    def view(self) -> ServerView:
        return servers.get(self.server_id)

    @property
    def run(self) -> int | None:
        return guest.domain_run_id(self.conn, self.server_id)

    @property
    def size(self) -> tuple[int, int]:
        view, there = self.view, shape.defined(self.conn, self.server_id)
        assert (view.vcpus, view.memory_mib) == there[:2]
        return view.vcpus, view.memory_mib

    @property
    def held(self) -> tuple[int, int, int]:
        """Return what the project holds, and assert that the host holds the same."""
        with transaction() as session:
            server = session.get_one(Server, self.server_id)
            ours = reservations.reserved_by_project(session, server.project_id)
            there = reservations.held_by_host(session)[server.host_id][0]  # type: ignore[index]
        assert (ours.vcpus, ours.memory_mib, ours.disk_gib) == (
            *(there.vcpus, there.memory_mib),
            there.disk_gib,
        )
        return ours.vcpus, ours.memory_mib, ours.disk_gib

    def windowed(self, text: str) -> None:
        servers.change(self.server_id, {"maintenance_window": text}, project_id=None, actor="alice")


@pytest.fixture
def life(catalogue: Catalogue) -> Waiting:
    return Waiting(catalogue)


def events(kind: str) -> list[Event]:
    with transaction() as session:
        return list(session.scalars(select(Event).where(Event.kind == kind)))


def test_it_waits_visibly_and_holds_what_it_grows_by(life: Waiting) -> None:
    run = life.run
    operation = life.defer(vcpus=2, memory_mib=512, disk_gib=3)
    assert (operation.phase, operation.deferred, operation.steps) == (Phase.SUCCEEDED, True, [])
    view = life.view
    assert (view.status, view.operation_id, life.run) == (Status.ACTIVE, None, run)
    assert life.size == (1, 192), "nothing has changed yet"
    assert life.held == (2, 512, 3)
    (condition,) = view.conditions
    assert condition.type == "ReconfigurePendingPowerCycle"
    assert "room for 192 MiB" in condition.message
    assert "a start or a reboot" in condition.message
    waiting = view.pending_resize
    assert waiting
    assert (waiting.asked_by, waiting.operation_id) == ("alice", operation.id)
    assert {(c.subject, c.after) for c in waiting.changes} == {
        *(("vCPUs", "2"), ("memory", "512 MiB")),
        ("root disk", "3 GiB"),
    }
    assert [event.actor for event in events("server.resize.waits")] == ["alice"]
    assert operations.awaiting_dispatch(0.0) == [], "nobody starts it"


def test_quota_bounds_what_waits(life: Waiting) -> None:
    life.catalogue.set_quota(memory_mib=400)
    with pytest.raises(QuotaExceeded):
        life.defer(memory_mib=512)
    life.defer(memory_mib=400)
    assert life.held[1] == 400
    life.catalogue.set_quota(memory_mib=192)
    life.carry(life.ask(Verb.REBOOT))
    assert life.size == (1, 400), "it was promised before the quota was lowered"


def test_a_live_change_does_not_wait(life: Waiting) -> None:
    assert not life.defer(vcpus=2).deferred


def test_a_reboot_is_the_resize_and_interrupts_once(life: Waiting) -> None:
    life.defer(memory_mib=512)
    run = life.run or 0
    operation = accept.request(
        *(Verb.REBOOT, life.server_id, RebootRequest()),
        project_id=None,
        actor="bob",
        idempotency_key="once",
    )
    assert operation.verb is Verb.RESIZE
    again = accept.request(
        *(Verb.REBOOT, life.server_id, RebootRequest()),
        project_id=None,
        actor="bob",
        idempotency_key="once",
    )
    assert again.id == operation.id
    assert life.carry(operation).phase is Phase.SUCCEEDED
    assert (life.size, life.run, life.held) == ((1, 512), run + 1, (1, 512, 1))
    assert (life.view.conditions, life.view.pending_resize) == ([], None)
    assert life.ask(Verb.REBOOT).verb is Verb.REBOOT


def test_a_hard_reboot_asks_no_guest(life: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    life.defer(memory_mib=512)
    operation = life.ask(Verb.REBOOT, mode="hard")
    monkeypatch.setattr(guest, "stop", lambda *_: pytest.fail("it was asked"))
    assert life.carry(operation).phase is Phase.SUCCEEDED
    assert (life.size, life.view.status) == ((1, 512), Status.ACTIVE)


def test_a_reboot_reboots_even_if_the_resize_has_a_live_way_by_now(life: Waiting) -> None:
    life.defer(memory_mib=512)
    with transaction() as session:
        session.get_one(Server, life.server_id).max_memory_mib = 1024
    run = life.run or 0
    life.carry(life.ask(Verb.REBOOT))
    assert (life.size, life.run) == ((1, 512), run + 1)


def test_a_start_is_the_resize(life: Waiting) -> None:
    life.defer(memory_mib=512, disk_gib=2)
    life.carry(life.ask(Verb.STOP))
    assert life.view.conditions
    assert life.size == (1, 192), "a stop leaves it to the start"
    operation = life.ask(Verb.START)
    assert operation.verb is Verb.RESIZE
    assert life.carry(operation).phase is Phase.SUCCEEDED
    assert (life.view.status, life.size, life.view.disk_gib) == (Status.ACTIVE, (1, 512), 2)
    assert life.run is not None


@pytest.mark.parametrize("failing", ["reshape", "turn-on"])
def test_a_failed_start_leaves_the_server_off_and_as_it_was(life: Waiting, failing: str) -> None:
    life.defer(memory_mib=512)
    life.carry(life.ask(Verb.STOP))
    assert life.carry(life.ask(Verb.START), failing=failing).phase is Phase.FAILED
    assert (life.view.status, life.run, life.size) == (Status.STOPPED, None, (1, 192))
    assert (life.held, life.view.conditions) == ((1, 192, 1), []), "it is not tried for ever"
    life.carry(life.ask(Verb.START))
    assert life.view.status is Status.ACTIVE


def test_a_window_that_opens_carries_it_out(life: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).replace(hour=3)
    life.windowed(f"{later:%a} 02:00-04:00")
    monkeypatch.setattr(resizing, "now", lambda: later - timedelta(days=1))
    monkeypatch.setattr(pending, "now", lambda: later - timedelta(days=1))
    monkeypatch.setattr(dispatch, "dispatch", lambda _: None)
    life.defer(memory_mib=512)
    assert f"maintenance window ({later:%a} 02:00-04:00)" in life.view.conditions[0].message
    assert reconciliation.carry_out_waiting() == []
    monkeypatch.setattr(pending, "now", lambda: later)
    assert reconciliation.carry_out_waiting() == [], "it closed while this was looking"
    assert life.view.conditions
    monkeypatch.setattr(resizing, "now", lambda: later)
    assert reconciliation.carry_out_waiting() == ["web"]
    assert reconciliation.carry_out_waiting() == [], "once"
    (operation,) = operations.awaiting_dispatch(0.0)
    assert (operation.verb, operation.actor) == (Verb.RESIZE, "maintenance-window")
    late = life.carry(operation)  # today is another day: the window of its run has closed
    assert late.phase is Phase.FAILED
    assert "it waits for the next one" in (late.error or "")
    assert (life.size, life.held) == ((1, 192), (1, 512, 1))
    assert life.view.conditions
    here = datetime.now(UTC)
    life.windowed(f"daily {here - timedelta(hours=1):%H:%M}-{here + timedelta(hours=1):%H:%M}")
    for module in (pending, resizing):
        monkeypatch.setattr(module, "now", lambda: here)
    assert reconciliation.carry_out_waiting() == ["web"]
    (operation,) = operations.awaiting_dispatch(0.0)
    assert life.carry(operation).phase is Phase.SUCCEEDED
    assert (life.size, life.view.conditions) == ((1, 512), [])


def test_another_resize_takes_its_place(life: Waiting) -> None:
    life.defer(memory_mib=512)
    with pytest.raises(Foreseen) as seen:
        accept.request(
            *(Verb.RESIZE, life.server_id, ResizeRequest(memory_mib=768, defer=True)),
            project_id=None,
            actor="me",
            foresight=Foresight(dry_run=True),
        )
    plan = seen.value.plan
    assert plan.interruption == "none now; later on the guest is powered off and on"
    assert "The resize that waits until now is forgotten (memory 192 MiB -> 512 MiB)." in (
        plan.warnings
    )
    assert life.held == (1, 512, 1)
    life.defer(memory_mib=384)
    assert life.held == (1, 384, 1)
    life.carry(accept.request(*(Verb.RESIZE, life.server_id, ResizeRequest(disk_gib=2)), **ME))
    assert (life.view.conditions, life.held) == ([], (1, 192, 2))
    assert len(events("server.resize.replaced")) == 2


ME: dict[str, Any] = {"project_id": None, "actor": "me"}


def test_a_dry_run_of_a_reboot_shows_the_resize(life: Waiting) -> None:
    life.defer(memory_mib=512)
    with pytest.raises(Foreseen) as seen:
        accept.request(Verb.REBOOT, life.server_id, foresight=Foresight(dry_run=True), **ME)
    plan = seen.value.plan
    assert (plan.verb, plan.changes[0].after) == (Verb.RESIZE, "512 MiB")
    assert not any("forgotten" in warning for warning in plan.warnings)
    view = accept.request(
        Verb.REBOOT, life.server_id, foresight=Foresight(digest=plan.digest), **ME
    )
    assert view.verb is Verb.RESIZE


def test_it_can_be_cancelled(life: Waiting) -> None:
    life.defer(memory_mib=512)
    pending.cancel(life.server_id, project_id=None, actor="bob")
    assert (life.held, life.view.conditions) == ((1, 192, 1), [])
    with pytest.raises(NotFound, match="No resize of 'web' waits"):
        pending.cancel(life.server_id, project_id=None, actor="bob")
    with pytest.raises(Conflict, match="waits any more"):
        accept.request(Verb.RESIZE, life.server_id, pending.PendingResizeRequest(), **ME)
    assert [event.actor for event in events("server.resize.forgotten")] == ["bob"]


def test_a_memory_in_its_way_leaves_it_waiting(life: Waiting) -> None:
    life.defer(memory_mib=512)
    life.take("asleep", memory=True)
    assert life.ask(Verb.REBOOT).verb is Verb.REBOOT
    with transaction() as session:
        session.get_one(Server, life.server_id).operation_id = None
        for row in session.scalars(select(Snapshot)):
            row.memory = False
    assert life.ask(Verb.REBOOT).verb is Verb.RESIZE


def test_a_plan_that_has_changed_meanwhile_is_what_it_was(life: Waiting) -> None:
    life.defer(plan="small")
    with transaction() as session:
        for plan in session.scalars(select(Plan).where(Plan.name == "small")):
            plan.memory_mib = 4096
    life.carry(life.ask(Verb.REBOOT))
    assert (life.view.plan, life.size) == ("small", (1, 1024))


def test_what_waits_survives_other_verbs_and_ends_with_the_server(life: Waiting) -> None:
    life.defer(memory_mib=512)
    life.do(Verb.REBUILD)
    assert (life.size, life.held) == ((1, 192), (1, 512, 1))
    life.do(Verb.SHELVE)
    with transaction() as session:
        project_id = session.get_one(Server, life.server_id).project_id
        assert reservations.reserved_by_project(session, project_id).memory_mib == 0
    life.do(Verb.UNSHELVE)
    assert (life.size, life.held) == ((1, 192), (1, 512, 1))
    life.do(Verb.DELETE)
    assert (life.view.conditions, life.view.pending_resize) == ([], None)


def test_a_form_whose_run_has_nothing_to_do(life: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import operation, step  # noqa: PLC0415 - Prefect's settings come first

    started: list[OperationView] = []
    monkeypatch.setattr(dispatch, "dispatch", started.append)
    waits = operation._nothing_to_do(Verb.RESIZE, life.defer(memory_mib=512))
    assert waits
    assert waits.over
    view = life.ask(Verb.REBOOT)
    over = operation._nothing_to_do(Verb.REBOOT, view)
    assert over
    assert started == [view], "the resize is started, as a run of its own"
    asyncio.run(step.together(over, step.declared("reboot")))
    assert shape.defined(life.conn, life.server_id)[1] == 192, "and this run does nothing"
    assert operation._nothing_to_do(Verb.RESIZE, view) is None


def test_over_http(api: Api, life: Waiting, started: list[UUID]) -> None:
    path = f"/servers/{life.server_id}"
    started.clear()
    body = {"json": {"memory_mib": 512, "defer": True}}
    answer = api("POST", f"{path}/actions/resize", **body)
    assert (answer.status_code, answer.json()["deferred"]) == (202, True)
    assert started == [], "nothing is to be started"
    shown = api("GET", path).json()
    assert shown["conditions"][0]["type"] == "ReconfigurePendingPowerCycle"
    assert shown["pending_resize"]["memory_mib"] == 512
    problem(api("DELETE", f"{path}/pending-resize", who="stranger"), 404, "not-found")
    assert api("DELETE", f"{path}/pending-resize").json()["conditions"] == []
    problem(api("DELETE", f"{path}/pending-resize"), 404, "not-found")
    ours = {"memory_mib": 512, "allow_power_cycle": True, "ends": "active", "vcpus": 1}
    assert api("POST", f"{path}/actions/resize", json=ours).status_code == 422


def test_a_refusal_in_the_window_is_told_once_for_each_reason(
    life: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.defer(vcpus=8)
    life.windowed("daily 00:00-23:59")
    monkeypatch.setattr(pending.maintenance.Window, "open_at", lambda *_: True)
    reasons = iter(("no room", "no room", "no such CPU"))

    def refuse(*_: Any, **__: Any) -> None:
        raise InvalidRequest(next(reasons))

    with monkeypatch.context() as patch:
        patch.setattr(resizing, "prepare", refuse)
        for _ in range(3):
            assert reconciliation.carry_out_waiting() == []
    assert [one.reason for one in events("server.resize.refused")] == ["no room", "no such CPU"]
    (condition,) = life.view.conditions
    assert condition.message.endswith("it was refused: no such CPU")
    assert life.held == (8, 192, 1), "it goes on waiting"
    monkeypatch.setattr(dispatch, "dispatch", lambda _: None)
    assert reconciliation.carry_out_waiting() == ["web"]


def test_a_refusal_by_placement_says_what_waits(life: Waiting) -> None:
    life.defer(memory_mib=512, disk_gib=2)
    with transaction() as session:
        for host in session.query(Host):
            if host.id != session.get_one(Server, life.server_id).host_id:
                host.memory_mib = 500
    body = MigrateRequest(allow_power_cycle=True)
    with pytest.raises(NoHostFits, match=r"320 MiB of memory and 1 GiB of disk are for its resize"):
        accept.request(Verb.MIGRATE, life.server_id, body, project_id=None, actor="me")
