"""Plans: their digests, and that there is a rule for every verb."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.contracts import REQUESTS
from innkeeper.domain.foresight import NONE, OFF_AND_ON, RULES, foresee
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb
from innkeeper.domain.placement import Demand
from innkeeper.domain.planning import (
    Effect,
    PlanOutdated,
    deciding,
    digest,
    require_unchanged,
)
from innkeeper.domain.resizing import Room, Shape, resize
from innkeeper.domain.world import Kept, World
from innkeeper.errors import InvalidRequest

SHAPE = Shape(1, 192, 1, 4, 192)
FACTS = (
    "request",
    "status",
    "shape",
    "host",
    "image",
    "disk",
    "snapshots",
    "data disks",
    "network cards",
    "outcome",
)
NEEDED: dict[Verb, dict[str, Any]] = {
    Verb.CREATE: {"name": "web"},
    Verb.REVERT: {"snapshot": "one"},
    Verb.DELETE_SNAPSHOT: {"snapshot": "one"},
    Verb.VERIFY_SNAPSHOT: {"snapshot": "one"},
    Verb.CLONE: {"name": "twin"},
    Verb.ATTACH_DISK: {"name": "data", "size_gib": 5},
    Verb.DETACH_DISK: {"disk": "data"},
    Verb.GROW_DISK: {"disk": "data", "size_gib": 5},
    Verb.ATTACH_NIC: {"name": "lan"},
    Verb.DETACH_NIC: {"nic": "lan"},
}
facts = st.fixed_dictionaries({name: st.text(max_size=20) for name in FACTS})


def world(status: Status = Status.ACTIVE, **more: Any) -> World:
    return World("web", status, SHAPE, "alpha", "debian", **more)


def test_every_verb_has_a_rule() -> None:
    assert set(RULES) == set(Verb)


@pytest.mark.parametrize("verb", list(Verb))
def test_every_verb_has_a_plan_from_every_status_that_allows_it(verb: Verb) -> None:
    body = REQUESTS[verb](**NEEDED.get(verb, {}))
    way = resize(SHAPE, Demand(2, 192, 2), Room(4), runs=True)
    kept = Kept("1", "one", memory=False, current=True)
    for status in TRANSITIONS[verb].allowed:
        plan = foresee(verb, world(status, snapshots=(kept,), subject=kept, resize=way), body)
        assert plan.changes
        assert plan.interruption
        if status is not Status.ACTIVE and verb not in {Verb.RESIZE, Verb.CLONE}:
            assert plan.interruption == NONE, "nobody can be interrupted"


@given(st.sampled_from(list(Verb)), facts)
def test_a_digest_fits_the_same_facts(verb: Verb, there: dict[str, str]) -> None:
    shown = digest(verb, there)
    require_unchanged(verb, there, shown)
    require_unchanged(verb, {name: there[name] for name in there if name != "outcome"}, shown)
    assert len(digest(verb, there)) <= 128  # what the API takes


@given(st.sampled_from(list(Verb)), facts, st.sampled_from(FACTS), st.text(max_size=20))
def test_a_change_is_named(verb: Verb, there: dict[str, str], name: str, value: str) -> None:
    shown, now = digest(verb, there), there | {name: value}
    if name not in deciding(verb) or there[name] == value:
        require_unchanged(verb, now, shown)
        return
    with pytest.raises(PlanOutdated) as refused:
        require_unchanged(verb, now, shown)
    told = {"request": "the request is another one", "outcome": "its changes would be others"}
    assert told.get(name, f"{name}: now") in str(refused.value)


@given(st.text(max_size=60))
def test_what_is_no_digest_is_refused(shown: str) -> None:
    with pytest.raises(InvalidRequest, match="not the digest of a plan"):
        require_unchanged(Verb.STOP, dict.fromkeys(FACTS, ""), shown)


def test_warnings_name_what_is_lost() -> None:
    kept = (Kept("1", "one", memory=True, current=False), Kept("2", "two", False, True))  # noqa: FBT003
    gone = foresee(Verb.DELETE, world(snapshots=kept), REQUESTS[Verb.DELETE]())
    assert any("one, two" in warning for warning in gone.warnings)
    fresh = foresee(Verb.REBUILD, world(), REQUESTS[Verb.REBUILD]())
    assert fresh.changes[0].effect is Effect.RECREATE
    assert any("is lost" in warning for warning in fresh.warnings)
    back = foresee(Verb.REVERT, world(subject=kept[0]), REQUESTS[Verb.REVERT](snapshot="one"))
    assert "goes on from the memory in 'one'" in back.interruption
    asleep = foresee(Verb.SUSPEND, world(), REQUESTS[Verb.SUSPEND]())
    assert any("keeps its quota and capacity" in warning for warning in asleep.warnings)


def test_a_resize_tells_its_power_cycle() -> None:
    way = resize(SHAPE, Demand(1, 512, 3), Room(4), runs=True)
    plan = foresee(Verb.RESIZE, world(resize=way), REQUESTS[Verb.RESIZE]())
    effects = {change.subject: change.effect for change in plan.changes}
    assert effects == {"memory": Effect.POWER_CYCLE, "root disk": Effect.LIVE}
    assert plan.interruption == OFF_AND_ON
    assert any("allow_power_cycle" in warning for warning in plan.warnings)
    live = resize(SHAPE, Demand(2, 192, 1), Room(4), runs=True)
    plan = foresee(Verb.RESIZE, world(resize=live), REQUESTS[Verb.RESIZE]())
    assert (plan.interruption, plan.warnings) == (NONE, ())
