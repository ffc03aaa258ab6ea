"""The transition table: what it allows, where it ends, and the diagram drawn from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.lifecycle import (
    BIRTHS,
    TRANSITIONS,
    Phase,
    Status,
    Verb,
    allowed_verbs,
    diagram,
    ending,
    require_allowed,
)
from innkeeper.domain.steps import STEPS, ArtifactKind
from innkeeper.errors import Conflict

STATUSES = list(Status)
VERBS = list(Verb)

SNAPSHOTS = {Verb.SNAPSHOT, Verb.REVERT, Verb.DELETE_SNAPSHOT, Verb.VERIFY_SNAPSHOT}
CLONES = {Verb.CLONE, Verb.FLATTEN}
DISKS = {Verb.ATTACH_DISK, Verb.DETACH_DISK, Verb.GROW_DISK}
CARDS = {Verb.ATTACH_NIC, Verb.DETACH_NIC}

# Written out once more by hand: a change of the table has to be meant.
ALLOWED = {
    Status.REQUESTED: {Verb.CREATE},
    Status.BUILDING: set(),
    Status.ACTIVE: {
        Verb.STOP,
        Verb.REBOOT,
        Verb.REBUILD,
        Verb.CONFIGURE,
        Verb.SUSPEND,
        Verb.SHELVE,
        Verb.DELETE,
        Verb.RESIZE,
        Verb.MIGRATE,
        *SNAPSHOTS,
        *CLONES,
        *DISKS,
        *CARDS,
    },
    Status.STOPPED: {
        Verb.START,
        Verb.REBUILD,
        Verb.SHELVE,
        Verb.DELETE,
        Verb.RESIZE,
        Verb.MIGRATE,
        *SNAPSHOTS,
        *CLONES,
        *DISKS,
        *CARDS,
    },
    Status.SUSPENDED: {Verb.RESUME, Verb.DELETE, Verb.SNAPSHOT, Verb.VERIFY_SNAPSHOT},
    Status.SHELVED: {Verb.UNSHELVE, Verb.DELETE},
    Status.ERROR: {Verb.DELETE},
    Status.DELETED: set(),
}


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_allows_what_it_should(status: Status) -> None:
    assert set(allowed_verbs(status)) == ALLOWED[status]


@given(verb=st.sampled_from(VERBS), status=st.sampled_from(STATUSES))
def test_every_verb_from_every_status(verb: Verb, status: Status) -> None:
    if verb in ALLOWED[status]:
        assert require_allowed(verb, status) is TRANSITIONS[verb]
        return
    with pytest.raises(Conflict) as refused:
        require_allowed(verb, status)
    sentence = str(refused.value)
    assert status in sentence
    assert verb in sentence
    assert all(other in sentence for other in TRANSITIONS[verb].allowed)


@given(st.lists(st.tuples(st.sampled_from(VERBS), st.booleans()), max_size=12))
def test_whatever_people_do_a_server_rests_in_a_known_status(
    wishes: list[tuple[Verb, bool]],
) -> None:
    """A walk over the table never gets stuck before `deleted`: it can be deleted, at the least."""
    status = Status.REQUESTED
    for verb, succeeds in wishes:
        if verb not in allowed_verbs(status):
            continue
        if verb is Verb.CLONE:
            continue  # it ends with another server
        row = TRANSITIONS[verb]
        status = ending(verb, status) if succeeds else (row.undone or status)
        assert status is not Status.BUILDING
        if status is not Status.DELETED:
            assert Verb.DELETE in allowed_verbs(status)


def test_the_diagram_has_every_transition_and_no_other() -> None:
    wanted = {"[*] --> requested", "deleted --> [*]"}
    for verb, row in TRANSITIONS.items():
        sources = {Status.REQUESTED} if verb in BIRTHS else row.allowed
        wanted |= {f"{source} --> {row.done or source}: {verb}" for source in sources}
        if row.undone:
            wanted |= {
                f"{source} --> {row.undone}: {verb} failed" for source in sources - {row.undone}
            }
    first, *lines = diagram().splitlines()
    assert first == "stateDiagram-v2"
    assert {line.strip() for line in lines} == wanted
    assert len(lines) == len(wanted)


def test_an_end_is_the_tables_or_the_named_one_or_none_at_all() -> None:
    for status in (Status.ACTIVE, Status.STOPPED):
        assert ending(Verb.SNAPSHOT, status) is status
        assert ending(Verb.REVERT, status, Status.ACTIVE) is Status.ACTIVE
        assert ending(Verb.STOP, status, Status.ACTIVE) is Status.STOPPED


def test_phases_that_ended() -> None:
    assert {phase for phase in Phase if phase.ended} == {"succeeded", "failed", "cancelled"}


def test_every_verb_has_steps_that_the_journal_can_hold() -> None:
    assert set(STEPS) == set(Verb)
    for steps in STEPS.values():
        assert steps
        assert len(set(steps)) == len(steps)
        assert all(len(name) <= 32 for name in steps)  # operation_steps.name
    assert all(len(kind) <= 32 for kind in ArtifactKind)  # artifacts.kind
    assert all(len(word) <= 16 for enum in (Status, Verb, Phase) for word in enum)
