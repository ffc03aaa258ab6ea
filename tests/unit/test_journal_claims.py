"""Claims on both databases: who gets one, what it fences off, what its steps leave behind."""

from uuid import uuid4

import pytest
from conftest import Catalogue, Race
from journaled import artifacts, makes, snapshot, started, step

from innkeeper.contracts import Claim
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import ClaimLost, NotFound
from innkeeper.services import journal, operations, reconcile, servers


def test_a_queued_operation_is_claimed_once(catalogue: Catalogue, race: Race) -> None:
    operation = catalogue.create("web")
    run = uuid4()
    results = race(12, lambda _: journal.claim(operation.id, run))
    (claim,) = [result for result in results if isinstance(result, Claim)]
    lost = [result for result in results if isinstance(result, ClaimLost)]
    assert len(lost) == 11
    assert (claim.attempt, claim.verb, claim.undoing) == (1, Verb.CREATE, False)
    view = operations.get(operation.id)
    assert (view.phase, view.attempt, view.flow_run_id) == (Phase.RUNNING, 1, run)
    assert view.started_at is not None
    assert servers.get(claim.server_id).status is Status.BUILDING


def test_there_has_to_be_something_to_claim(catalogue: Catalogue) -> None:
    with pytest.raises(NotFound):
        journal.claim(uuid4())
    claim = started(catalogue)
    journal.complete(claim)
    with pytest.raises(ClaimLost, match="is succeeded"):
        journal.claim(claim.operation_id)


def test_the_next_attempt_keeps_what_the_first_one_knew(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "volume", makes=makes)
    journal.note(claim, "volume", run=7)
    begun = operations.get(claim.operation_id).started_at
    assert reconcile.requeue(claim.operation_id, claim.attempt, "its worker died") is not None
    again = journal.claim(claim.operation_id)
    assert again.attempt > claim.attempt
    assert operations.get(claim.operation_id).started_at == begun
    blueprint = journal.begin(again, "volume", makes=makes)
    assert blueprint.step_data == {"run": 7}
    assert not blueprint.step_was_done
    assert step(again, "volume").tries == 2
    assert len(artifacts()) == 1


def test_a_dead_run_is_taken_over_once(catalogue: Catalogue, race: Race) -> None:
    claim = started(catalogue)
    results = race(8, lambda _: reconcile.requeue(claim.operation_id, claim.attempt, "dead"))
    assert sum(result is not None for result in results) == 1


def test_a_run_that_was_taken_over_changes_nothing_any_more(catalogue: Catalogue) -> None:
    old = started(catalogue)
    journal.begin(old, "volume", makes=makes)
    reconcile.requeue(old.operation_id, old.attempt, "it was silent")
    new = journal.claim(old.operation_id)
    journal.begin(new, "volume", makes=makes)
    before = snapshot()
    made = [(ArtifactKind.VOLUME, "any")]
    for attempt in (
        lambda: journal.begin(old, "seed", makes=makes),
        lambda: journal.begin(old, "volume", undo=True),
        lambda: journal.end(old, "volume", made=made, removed=made),
        lambda: journal.end(old, "volume", undo=True, removed=made),
        lambda: journal.fail(old, "volume", "an error"),
        lambda: journal.note(old, "volume", run=1),
        lambda: journal.progress(old, "volume", 0.5),
        lambda: journal.heartbeat(old),
        lambda: journal.undoing(old, "an error"),
        lambda: journal.undone(old),
        lambda: journal.complete(old),
        lambda: servers.adopt_volume(old, "another.qcow2"),
    ):
        with pytest.raises(ClaimLost):
            attempt()
        assert snapshot() == before
    journal.complete(new)


def test_between_two_attempts_nobody_holds_the_operation(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    reconcile.requeue(claim.operation_id, claim.attempt, "it was silent")
    for attempt in (claim.attempt, claim.attempt + 1):
        with pytest.raises(ClaimLost):
            journal.heartbeat(claim.model_copy(update={"attempt": attempt}))


def test_an_operation_ends_once(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.complete(claim)
    before = snapshot()
    for end in (journal.complete, journal.undone):
        with pytest.raises(ClaimLost):
            end(claim)
    assert snapshot() == before


def test_of_two_ends_at_once_one_counts(catalogue: Catalogue, race: Race) -> None:
    claim = started(catalogue)
    ends = [journal.complete, journal.undone] * 3
    results = race(6, lambda number: ends[number](claim))
    assert sum(isinstance(result, ClaimLost) for result in results) == 5
    view = operations.get(claim.operation_id)
    status = servers.get(claim.server_id).status
    assert (view.phase, status) in {
        (Phase.SUCCEEDED, Status.ACTIVE),
        (Phase.FAILED, Status.ERROR),
    }
