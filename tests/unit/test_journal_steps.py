"""Steps on both databases: intent before effect, tries, notes."""

import pytest
from conftest import Catalogue
from journaled import artifacts, makes, started, step

from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.steps import STEPS
from innkeeper.services import journal, operations, servers


def test_intent_is_committed_before_the_effect_and_closed_after_it(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    blueprint = journal.begin(claim, "volume", makes=makes)
    name = blueprint.root_volume
    assert artifacts() == {name: "intended"}
    assert step(claim, "volume").state == "begun"
    assert step(claim, "volume").ordinal == STEPS[Verb.CREATE].index("volume")
    journal.end(claim, "volume", detail="1 GiB", made=makes(blueprint))
    assert artifacts() == {name: "present"}
    done = step(claim, "volume")
    assert (done.state, done.detail, done.tries) == ("done", "1 GiB", 1)
    assert done.ended_at is not None
    assert journal.begin(claim, "volume", makes=makes).step_was_done
    assert artifacts() == {name: "present"}, "a repeated step forgets nothing"
    journal.end(claim, "volume", removed=makes(blueprint), undo=True)
    assert artifacts() == {}
    assert step(claim, "volume").state == "undone"


def test_one_transaction_ends_a_step_and_begins_the_next(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    blueprint = journal.begin(claim, "substrate")
    ahead = journal.advance(claim, "substrate", "volume", detail="laid", makes=makes)
    assert ahead is not None
    assert (ahead.step_was_done, ahead.server_id) == (False, blueprint.server_id)
    assert ahead.host_key_private == blueprint.host_key_private
    assert artifacts() == {ahead.root_volume: "intended"}
    assert (step(claim, "substrate").state, step(claim, "substrate").detail) == ("done", "laid")
    assert (step(claim, "volume").state, step(claim, "volume").tries) == ("begun", 1)
    journal.advance(claim, "volume", "seed", made=makes(ahead))
    assert artifacts() == {ahead.root_volume: "present"}


def test_a_cancel_lets_the_step_end_and_begins_no_other(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "volume")
    operations.cancel(claim.operation_id, None, "tester")
    assert journal.advance(claim, "volume", "seed", makes=makes) is None
    assert step(claim, "volume").state == "done"
    assert [row.name for row in operations.get(claim.operation_id).steps] == ["volume"]
    assert artifacts() == {}


def test_a_step_of_another_verb_is_a_mistake(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    with pytest.raises(ValueError, match="not in tuple"):
        journal.begin(claim, "power-off")


def test_a_failed_try_tells_why_and_a_new_try_begins_afresh(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "volume")
    journal.fail(claim, "volume", "pool is full")
    failed = step(claim, "volume")
    assert (failed.state, failed.detail) == ("failed", "pool is full")
    assert failed.ended_at is not None
    journal.begin(claim, "volume")
    again = step(claim, "volume")
    assert (again.state, again.detail, again.tries, again.ended_at) == ("begun", None, 2, None)
    journal.fail(claim, "seed", "it never began")
    assert [row.name for row in operations.get(claim.operation_id).steps] == ["volume"]


def test_any_text_is_journaled(catalogue: Catalogue) -> None:
    """Errors come from anywhere: too long, and with what PostgreSQL cannot hold."""
    claim = started(catalogue)
    hostile = "a\x00b" + "x" * 9000 + "🙂"
    journal.begin(claim, "volume")
    journal.progress(claim, "volume", 0.25, hostile)
    assert step(claim, "volume").progress == 0.25
    journal.end(claim, "volume", detail=hostile)
    assert step(claim, "volume").progress is None
    journal.fail(claim, "volume", hostile)
    assert (step(claim, "volume").detail or "").startswith("abx")
    journal.undoing(claim, hostile)
    journal.undone(claim)
    assert (servers.get(claim.server_id).fault or "").startswith("abx")


def test_notes_add_up(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "start")
    journal.note(claim, "start", run=1)
    journal.note(claim, "start", agent=True)
    assert step(claim, "start").data == {"run": 1, "agent": True}


def test_a_blueprint_shows_no_secret(catalogue: Catalogue) -> None:
    operation = catalogue.create(
        "web", user_data="#!/bin/sh\n# canary", runcmd=["canary"], root_password=True
    )
    blueprint = journal.begin(journal.claim(operation.id), "seed")
    assert blueprint.user_data == "#!/bin/sh\n# canary"
    assert blueprint.runcmd == ("canary",)
    shown = repr(blueprint)
    assert "canary" not in shown
    assert "PRIVATE KEY" not in shown
    assert blueprint.root_password_hash is not None
    assert blueprint.root_password_hash not in shown
