"""The whole wanted state: what is left to do, in which order, and that nothing is done twice."""

from typing import Any
from uuid import UUID

import pytest
from api_client import Api, problem
from conftest import Catalogue
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import Event, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.placement import Demand
from innkeeper.domain.wanted import Fine, ResourcesRequest, WantedDisk, difference
from innkeeper.errors import Forbidden, InvalidRequest, QuotaExceeded
from innkeeper.services import operations, resources, servers
from innkeeper.services.resizing import PowerCycleNeeded
from innkeeper.services.verifying import ServerBusy
from innkeeper.services.views import OperationView
from tasks import reconciliation

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
ME: dict[str, Any] = {"project_id": None, "actor": "me", "role": "admin"}
NAMES = ("a", "b", "c", "d")
disks = st.dictionaries(st.sampled_from(NAMES), st.integers(1, 9))


def wish(**fields: Any) -> ResourcesRequest:
    return ResourcesRequest(**({"vcpus": 1, "memory_mib": 192, "disk_gib": 1} | fields))


@given(disks, disks, st.data())
def test_the_steps_lead_to_what_is_wanted(
    wanted: dict[str, int], has: dict[str, int], data: st.DataObject
) -> None:
    kept = {n: g for n, g in data.draw(disks).items() if n not in has}
    wanted = {n: max(g, has.get(n, kept.get(n, 0))) for n, g in wanted.items()}
    asked = wish(
        vcpus=data.draw(st.integers(1, 2)),
        disks=[WantedDisk(name=n, size_gib=g) for n, g in wanted.items()],
        remove_disks="keep",
    )
    size = Demand(1, 192, 1)
    steps = difference(asked, size, Fine(), has, kept)
    there, ranks = dict(has), []
    for verb, body, name in steps:
        ranks.append({Verb.RESIZE: 0, Verb.DETACH_DISK: 2}.get(verb, 1))
        plain = body.model_dump()
        if verb is Verb.ATTACH_DISK:
            there[name] = plain["size_gib"] or kept[name]
        elif verb is Verb.GROW_DISK:
            assert plain["size_gib"] > there[name]
            there[name] = plain["size_gib"]
        elif verb is Verb.DETACH_DISK:
            del there[name]
    assert there == wanted
    assert ranks == sorted(ranks), "the size first, what is taken away last"
    assert difference(asked, Demand(asked.vcpus, 192, 1), Fine(), there, {}) == []


def test_what_makes_no_sense() -> None:
    has = {"a": 5}
    with pytest.raises(InvalidRequest, match="left out: a"):
        difference(wish(disks=[]), Demand(1, 192, 1), Fine(), has, {})
    smaller = wish(disks=[WantedDisk(name="a", size_gib=4)])
    with pytest.raises(InvalidRequest, match="has 5 GiB, 4 asked"):
        difference(smaller, Demand(1, 192, 1), Fine(), has, {})
    size = Demand(1, 192, 1)
    assert difference(wish(), size, Fine(), has, {}) == [], "disks that are not named stay"
    with pytest.raises(ValidationError, match="a name is there twice"):
        wish(disks=[WantedDisk(name="a", size_gib=4), WantedDisk(name="a", size_gib=5)])


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def kinds() -> list[tuple[str, str]]:
    with transaction() as session:
        rows = session.scalars(select(Event).where(Event.kind.startswith("server.resources")))
        return [(row.kind.rpartition(".")[2], row.reason) for row in rows]


def finish(life: Life, view: OperationView | None, *, failing: str = "") -> list[str]:
    """Carry operations out, one after another, as runs do; return their verbs."""
    done = []
    while view is not None:
        ended = life.carry(view, failing=failing) if view.phase is Phase.QUEUED else view
        done.append(str(ended.verb))
        view = resources.pursue(life.server_id)
    return done


def has(life: Life) -> tuple[int, int, int, dict[str, int]]:
    view = servers.get(life.server_id)
    return view.vcpus, view.memory_mib, view.disk_gib, {d.name: d.size_gib for d in view.disks}


@sqlite
def test_one_operation_after_another_and_then_none(life: Life) -> None:
    two = [WantedDisk(name="data", size_gib=2), WantedDisk(name="logs", size_gib=1)]
    asked = wish(vcpus=2, disk_gib=2, disks=two, cpu={"limit": 50})
    plans = resources.plan(life.server_id, asked, **ME)
    assert [plan.verb for plan in plans] == ["resize", "attach-disk", "attach-disk"]
    first = resources.put(life.server_id, asked, **ME)
    assert first
    assert [c.type for c in servers.get(life.server_id).conditions] == ["ResourcesPending"]
    again = resources.put(life.server_id, asked, **ME)
    assert again
    assert again.id == first.id, "it is at work"
    with pytest.raises(ServerBusy):
        resources.put(life.server_id, wish(vcpus=3), **ME)
    assert finish(life, first) == ["resize", "attach-disk", "attach-disk"]
    assert has(life) == (2, 192, 2, {"data": 2, "logs": 1})
    assert servers.get(life.server_id).cpu == {"limit": 50}
    assert servers.get(life.server_id).conditions == []
    assert resources.put(life.server_id, asked, **ME) is None, "it has all of it"
    assert kinds() == [("wanted", ""), ("ended", "all of it is there")]
    fewer = wish(
        vcpus=2, disk_gib=2, disks=[WantedDisk(name="data", size_gib=3)], remove_disks="keep"
    )
    assert finish(life, resources.put(life.server_id, fewer, **ME)) == ["grow-disk", "detach-disk"]
    back = wish(vcpus=2, disk_gib=2, cpu={}, disks=[*two[1:], WantedDisk(name="data", size_gib=3)])
    assert finish(life, resources.put(life.server_id, back, **ME)) == ["resize", "attach-disk"]
    assert has(life) == (2, 192, 2, {"data": 3, "logs": 1}), "the kept one is back"
    assert servers.get(life.server_id).cpu == {}


@sqlite
def test_a_run_that_died_between_two_is_no_loss(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = wish(vcpus=2, disks=[WantedDisk(name="data", size_gib=1)])
    first = resources.put(life.server_id, asked, **ME)
    assert first
    assert reconciliation.pursue_wanted() == 0, "it is at work"
    life.carry(first)
    started: list[UUID] = []
    monkeypatch.setattr(reconciliation.dispatch, "dispatch", lambda v: started.append(v.id))
    assert reconciliation.pursue_wanted() == 1
    (waiting,) = operations.awaiting_dispatch(0.0)
    assert (started, waiting.verb) == ([waiting.id], Verb.ATTACH_DISK)
    assert reconciliation.pursue_wanted() == 0
    assert finish(life, waiting) == ["attach-disk"]
    assert has(life)[3] == {"data": 1}


@sqlite
def test_killed_before_the_first_one_is_accepted(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resources, "_next", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resources.put(life.server_id, wish(vcpus=2), **ME)
    assert finish(life, resources.pursue(life.server_id)) == ["resize"]
    assert has(life)[0] == 2


@sqlite
def test_a_refusal_begins_nothing(life: Life) -> None:
    life.catalogue.set_quota(disk_gib=3)
    with pytest.raises(QuotaExceeded):
        resources.put(
            life.server_id, wish(vcpus=2, disks=[WantedDisk(name="data", size_gib=5)]), **ME
        )
    with pytest.raises(PowerCycleNeeded):
        resources.put(life.server_id, wish(memory_mib=512), **ME)
    with pytest.raises(Forbidden):
        resources.put(life.server_id, wish(cpu={"pin": "0"}), **(ME | {"role": "user"}))
    with transaction() as session:
        assert session.get_one(Server, life.server_id).wanted is None
    assert has(life) == (1, 192, 1, {})
    assert operations.awaiting_dispatch(0.0) == []


@sqlite
def test_a_failure_ends_it(life: Life) -> None:
    asked = wish(vcpus=2, disks=[WantedDisk(name="data", size_gib=1)])
    first = resources.put(life.server_id, asked, **ME)
    assert finish(life, first, failing="reshape") == ["resize"]
    assert has(life) == (1, 192, 1, {})
    (_, ended) = kinds()
    assert "given up: resize of size has failed: reshape was made to fail" in ended[1]
    assert servers.get(life.server_id).conditions == []


@sqlite
def test_a_refusal_on_the_way_ends_it(life: Life) -> None:
    asked = wish(vcpus=2, disks=[WantedDisk(name="data", size_gib=4)])
    first = resources.put(life.server_id, asked, **ME)
    assert first
    life.catalogue.set_quota(disk_gib=2)
    assert finish(life, first) == ["resize"]
    assert "given up" in kinds()[-1][1]


@sqlite
def test_what_waits_counts_as_done(life: Life) -> None:
    asked = wish(memory_mib=512, defer=True, disks=[WantedDisk(name="data", size_gib=1)])
    first = resources.put(life.server_id, asked, **ME)
    assert first
    assert first.verb is Verb.ATTACH_DISK, "the resize waits already"
    assert finish(life, first) == ["attach-disk"]
    assert resources.put(life.server_id, asked, **ME) is None
    assert has(life)[1] == 192
    assert servers.get(life.server_id).pending_resize


@sqlite
def test_over_http(api: Api, life: Life, started: list[UUID]) -> None:
    path = f"/servers/{life.server_id}/resources"
    body = {"vcpus": 2, "memory_mib": 192, "disk_gib": 1}
    started.clear()
    seen = api("PUT", f"{path}?validate_only=true", json=body)
    assert (seen.status_code, seen.json()["plans"][0]["verb"]) == (200, "resize")
    begun = api("PUT", path, json=body)
    assert begun.status_code == 202
    assert begun.headers["Location"].endswith(begun.json()["operation"]["id"])
    assert [str(one) for one in started] == [begun.json()["operation"]["id"]]
    life.carry(operations.get(UUID(begun.json()["operation"]["id"])))
    again = api("PUT", path, json=body)
    assert (again.status_code, again.json()["changed"]) == (200, False)
    problem(api("PUT", path, json=body, who="stranger"), 404, "not-found")
    assert api("PUT", path, json={"vcpus": 2}).status_code == 422


@sqlite
def test_validation_tells_errors_and_warnings(api: Api, life: Life) -> None:
    path = f"/servers/{life.server_id}/actions/resize?validate_only=true"
    good = api("POST", path, json={"disk_gib": 2})
    assert (good.status_code, good.json()["valid"]) == (200, True)
    assert any("never shrinks" in warning for warning in good.json()["warnings"])
    assert good.json()["plan"]["verb"] == "resize"
    bad = api("POST", path, json={"vcpus": 9})
    assert (bad.status_code, bad.json()["valid"], bad.json()["plan"]) == (200, False, None)
    assert "9 vCPUs are more than the host's 8" in bad.json()["errors"][0]["detail"]
    problem(api("POST", path, json={"disk_gib": 2}, who="stranger"), 404, "not-found")
    assert has(life) == (1, 192, 1, {})
