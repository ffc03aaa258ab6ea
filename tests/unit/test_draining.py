"""Evacuating a simulated host, without Prefect's engine."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from api_client import Api
from conftest import Catalogue
from journaled import carried
from two_hosts import used

from innkeeper import dispatch
from innkeeper.db.models import Drain, Event, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.domain.specs import CloneRequest, DrainRequest, ResizeRequest, SnapshotRequest
from innkeeper.errors import ClaimLost, NotFound
from innkeeper.services import accept, draining, hosts, operations, servers, survey
from innkeeper.services.verifying import ServerBusy
from innkeeper.services.views import DrainView, OperationView
from tasks import drain as tasks_drain
from tasks import reconciliation

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = DrainRequest(allow_power_cycle=True, parallel=2)


class Inn:
    """Servers on the host alpha, and what drains it."""

    def __init__(self, catalogue: Catalogue, *names: str) -> None:
        self.catalogue = catalogue
        self.alpha, self.beta = (catalogue.host_ids[name] for name in ("alpha", "beta"))
        catalogue.set_hosts("beta", enabled=False)
        self.ids = {name: self.made(name) for name in names}
        catalogue.set_hosts("beta", enabled=True)
        self.at_once: list[int] = []

    def made(self, name: str) -> UUID:
        view = carried(self.catalogue.create(name))
        assert view.phase is Phase.SUCCEEDED, view.error
        return view.server_id

    def begin(self, body: DrainRequest = COLD) -> UUID:
        view = draining.begin(self.alpha, body, actor="me")
        assert view.id is not None
        return view.id

    def turn(self, drain_id: UUID, attempt: int) -> tuple[list[OperationView], bool]:
        begun, over = draining.turn(drain_id, attempt)
        self.at_once.append(len(begun))
        return begun, over

    def run(self, drain_id: UUID, *, failing: dict[str, str] | None = None) -> DrainView:
        """Do what the flow does, with a worker beside it."""
        attempt = draining.claim(drain_id)
        for _ in range(20):
            begun, over = self.turn(drain_id, attempt)
            if over:
                return draining.get(drain_id)
            for view in begun:
                carried(view, failing=(failing or {}).get(view.server, ""))
        raise AssertionError("it does not end")

    def states(self, view: DrainView) -> dict[str, str]:
        return {one.server: one.state for one in view.servers}

    def do(self, verb: Verb, name: str, body: Any = None) -> None:
        asked = accept.request(verb, self.ids[name], body, project_id=None, actor="me")
        ended = carried(asked)
        assert ended.phase is Phase.SUCCEEDED, ended.error

    def home(self, name: str) -> str | None:
        return servers.get(self.ids[name]).host


def test_a_drained_host_is_empty_and_takes_nothing_until_it_is_enabled(
    catalogue: Catalogue,
) -> None:
    inn = Inn(catalogue, "a", "b", "c")
    view = inn.run(inn.begin())
    assert (view.phase, view.host) == ("done", "alpha")
    assert inn.states(view) == {"a": "moved", "b": "moved", "c": "moved"}
    assert {one.host for one in view.servers} == {"beta"}
    assert max(inn.at_once) == 2
    assert (used("alpha"), used("beta")) == ((0, 0, 0), (3, 576, 3))
    assert survey.audit() == []
    assert hosts.get(inn.alpha).enabled is False
    again = inn.run(inn.begin())
    assert (again.phase, again.servers) == ("done", [])
    hosts.update(inn.alpha, {"enabled": True})
    catalogue.set_hosts("beta", enabled=False)
    assert servers.get(inn.made("d")).host == "alpha"


def test_what_cannot_leave_is_named_and_the_others_leave(catalogue: Catalogue) -> None:
    inn = Inn(catalogue, "free", "laden", "kept", "fails", "shelved", "suspended")
    inn.do(Verb.SNAPSHOT, "laden", SnapshotRequest(name="before", memory=True))
    inn.do(Verb.ATTACH_DISK, "laden", AttachDiskRequest(name="data", size_gib=1))
    inn.do(Verb.CLONE, "kept", CloneRequest(name="twin"))
    inn.do(Verb.SHELVE, "shelved")
    inn.do(Verb.SUSPEND, "suspended")
    view = inn.run(inn.begin(), failing={"fails": "carry-disk"})
    assert view.phase == "incomplete"
    assert inn.states(view) == {
        "free": "moved",
        "laden": "moved",
        "kept": "moved",
        "twin": "moved",
        "fails": "stays",
        "suspended": "stays",
    }
    why = {one.server: one.reason or "" for one in view.servers}
    assert "carry-disk was made to fail" in why["fails"]
    assert "is suspended cannot migrate" in why["suspended"]
    assert (inn.home("free"), inn.home("fails"), inn.home("kept")) == ("beta", "alpha", "beta")
    assert servers.get(inn.ids["fails"]).status == "active"
    assert survey.audit() == []
    with transaction() as session:
        (event,) = session.query(Event).filter(Event.kind == "host.drain.incomplete")
    assert set(event.after or {}) == {"fails", "suspended"}
    later = inn.run(inn.begin())
    assert inn.states(later) == {"suspended": "stays", "fails": "moved"}


def test_a_source_waits_for_its_clones_and_stays_with_those_that_cannot_go(
    catalogue: Catalogue,
) -> None:
    inn = Inn(catalogue, "first", "free")
    inn.do(Verb.CLONE, "first", CloneRequest(name="second"))
    inn.ids["second"] = next(one.id for one in servers.page().items if one.name == "second")
    inn.do(Verb.CLONE, "second", CloneRequest(name="third"))
    inn.ids["third"] = next(one.id for one in servers.page().items if one.name == "third")
    view = inn.run(inn.begin(), failing={"third": "carry-disk"})
    assert inn.states(view) == {
        "free": "moved",
        "first": "stays",
        "second": "stays",
        "third": "stays",
    }
    why = {one.server: one.reason or "" for one in view.servers}
    assert "linked clones stand on its disk: second" in why["first"]
    assert "linked clones stand on its disk: third" in why["second"]
    later = inn.run(inn.begin())
    assert (later.phase, set(inn.states(later).values())) == ("incomplete", {"moved", "stays"})
    assert survey.audit() == []


def test_servers_with_cards_go_where_these_can_be_and_the_others_stay_by_name(
    catalogue: Catalogue,
) -> None:
    inn = Inn(catalogue, "bridged", "carded", "waits", "free")
    hosts.update(inn.alpha, {"bridges": ["br0"]})
    bridged = AttachNicRequest(name="lan", network="bridge", bridge="br0")
    inn.do(Verb.ATTACH_NIC, "bridged", bridged)
    inn.do(
        Verb.ATTACH_NIC,
        "carded",
        AttachNicRequest(name="back", network="isolated", isolated="backend"),
    )
    waits = ResizeRequest(memory_mib=512, defer=True)
    accept.request(Verb.RESIZE, inn.ids["waits"], waits, project_id=None, actor="me")
    told = {one.server: one for one in draining.foresee(inn.alpha, COLD).servers}
    assert {name: one.state for name, one in told.items()} == {
        "bridged": "stays",
        "carded": "waits",
        "waits": "waits",
        "free": "waits",
    }
    view = inn.run(inn.begin())
    assert view.phase == "incomplete"
    moved = dict.fromkeys(("carded", "waits", "free"), "moved")
    assert inn.states(view) == {"bridged": "stays", **moved}
    for one in (told["bridged"], next(one for one in view.servers if one.server == "bridged")):
        assert "beta: no bridge br0 here for its network card lan" in (one.reason or "")
    assert servers.get(inn.ids["waits"]).pending_resize
    assert survey.audit() == []


def test_without_consent_nobody_is_interrupted(catalogue: Catalogue) -> None:
    inn = Inn(catalogue, "runs", "rests")
    inn.do(Verb.STOP, "rests")
    told = draining.foresee(inn.alpha, DrainRequest())
    assert (told.id, told.phase) == (None, "planned")
    seen = {one.server: one for one in told.servers}
    assert (seen["rests"].state, seen["rests"].host) == ("waits", "beta")
    assert seen["rests"].interruption == "none"
    assert (seen["runs"].state, seen["runs"].effect) == ("stays", "power_cycle")
    assert (used("beta"), hosts.get(inn.alpha).enabled) == ((0, 0, 0), True)
    allowed = draining.foresee(inn.alpha, COLD)
    assert {one.state for one in allowed.servers} == {"waits"}
    view = inn.run(inn.begin(DrainRequest()))
    assert inn.states(view) == {"rests": "moved", "runs": "stays"}
    assert any("--allow-power-cycle" in (one.reason or "") for one in view.servers)


def test_a_run_that_died_is_followed_by_one_that_knows_as_much(catalogue: Catalogue) -> None:
    inn = Inn(catalogue, "a", "b", "c")
    drain_id = inn.begin()
    assert inn.begin() == drain_id, "the one under way goes on"
    first = draining.claim(drain_id)
    begun, over = inn.turn(drain_id, first)
    assert (len(begun), over) == (2, False)
    second = draining.claim(drain_id)
    with pytest.raises(ClaimLost):
        draining.turn(drain_id, first)
    assert inn.turn(drain_id, second) == ([], False), "both that move are known"
    for view in begun:
        carried(view)
    assert inn.run(drain_id).phase == "done"
    asked = [op for op in operations.page().items if op.verb is Verb.MIGRATE]
    assert len(asked) == 3
    with pytest.raises(ClaimLost):
        draining.claim(drain_id)


def test_enabling_the_host_ends_its_drain(catalogue: Catalogue) -> None:
    inn = Inn(catalogue, "a", "b", "c")
    drain_id = inn.begin()
    attempt = draining.claim(drain_id)
    begun, _ = inn.turn(drain_id, attempt)
    hosts.update(inn.alpha, {"enabled": True})
    with pytest.raises(ClaimLost):
        draining.turn(drain_id, attempt)
    assert draining.get(drain_id).phase == "stopped"
    for view in begun:  # what has begun goes on
        assert carried(view).phase is Phase.SUCCEEDED
    assert [inn.home(name) for name in "abc"].count("alpha") == 1


def test_a_busy_server_is_waited_for(catalogue: Catalogue) -> None:
    inn = Inn(catalogue, "a")
    view = accept.request(Verb.STOP, inn.ids["a"], project_id=None, actor="me")
    drain_id = inn.begin()
    attempt = draining.claim(drain_id)
    assert inn.turn(drain_id, attempt) == ([], False)
    carried(view)
    assert inn.run(drain_id).phase == "done"
    assert inn.home("a") == "beta"


def test_reconcile_goes_on_with_a_drain_that_fell_silent(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    inn = Inn(catalogue, "a")
    drain_id = inn.begin()
    started: list[tuple[UUID, int]] = []
    monkeypatch.setattr(dispatch, "dispatch_drain", lambda *run: started.append(run))
    assert reconciliation.revive_drains() == 0
    attempt = draining.claim(drain_id)
    with transaction() as session:
        row = session.get_one(Drain, drain_id)
        row.created_at = row.heartbeat_at = now() - timedelta(hours=1)
    assert reconciliation.revive_drains() == 1
    assert started == [(drain_id, attempt)]
    monkeypatch.setattr(dispatch, "dispatch", lambda _view: None)
    assert tasks_drain.step(drain_id, attempt) is False
    assert reconciliation.revive_drains() == 0


def test_over_http(api: Api) -> None:
    name, host_id = next((h.name, h.id) for h in hosts.all())
    plan = api("POST", f"/hosts/{host_id}/drain?dry_run=true", "operator")
    assert (plan.status_code, plan.json()["phase"]) == (200, "planned")
    assert api("GET", f"/hosts/{host_id}/drain", "operator").status_code == 404
    begun = api("POST", f"/hosts/{host_id}/drain", "operator", json={"parallel": 1})
    assert (begun.status_code, begun.json()["host"]) == (202, name)
    assert hosts.get(host_id).enabled is False
    assert api("GET", f"/hosts/{host_id}/drain", "operator").json()["id"] == begun.json()["id"]
    assert (
        api("POST", f"/hosts/{host_id}/drain", "operator", json={"parallel": 99}).status_code == 422
    )


def test_what_is_not_there(catalogue: Catalogue) -> None:
    with pytest.raises(NotFound):
        draining.begin(catalogue.project_id, COLD, actor="me")
    with pytest.raises(NotFound, match="never drained"):
        draining.latest(catalogue.host_ids["alpha"])
    with pytest.raises(NotFound, match="There is no host 'x'"):
        draining.find_host("x")
    with transaction() as session:
        assert session.query(Server).count() == 0


def test_one_that_was_busy_a_moment_ago_is_asked_again(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    inn = Inn(catalogue, "web")
    drain_id = inn.begin()

    def busy(*_: Any, **__: Any) -> OperationView:
        raise ServerBusy("Operation 1 is at work on 'web'.")  # and has ended by now

    with monkeypatch.context() as patch:
        patch.setattr(accept, "request", busy)
        assert inn.turn(drain_id, draining.claim(drain_id)) == ([], False)
    assert inn.states(inn.run(drain_id)) == {"web": "moved"}
