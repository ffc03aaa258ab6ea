"""The journal on both databases: claims, fencing, intent, undo, end."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue, Race
from sqlalchemy import select, text

from innkeeper.contracts import Claim
from innkeeper.db.models import (
    Address,
    Artifact,
    Base,
    Disk,
    Event,
    Nic,
    Operation,
    OperationStep,
    PortForward,
    Server,
)
from innkeeper.db.session import engine, transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import ConfigureRequest
from innkeeper.domain.steps import STEPS, ArtifactKind
from innkeeper.errors import ClaimLost, Conflict, NotFound, OperationCancelled
from innkeeper.services import accept, journal, operations, reconcile, reservations, servers
from innkeeper.services.blueprint import Blueprint


def makes(blueprint: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, blueprint.root_volume)]


def started(catalogue: Catalogue, name: str = "web") -> Claim:
    return journal.claim(catalogue.create(name).id)


def ask(verb: Verb, server_id: UUID) -> Claim:
    return journal.claim(accept.request(verb, server_id, project_id=None, actor="tester").id)


def active(catalogue: Catalogue, name: str = "web", **fields: Any) -> UUID:
    claim = journal.claim(catalogue.create(name, **fields).id)
    journal.complete(claim)
    return claim.server_id


def snapshot() -> dict[str, list[Any]]:
    """Return every row of every table as the database has it."""
    with engine().connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(text(f"SELECT * FROM {table.name}"))))  # noqa: S608 - our own names
            for table in Base.metadata.sorted_tables
        }


def step(claim: Claim, name: str) -> OperationStep:
    with transaction() as session:
        return session.get_one(OperationStep, (claim.operation_id, name))


def artifacts() -> dict[str, str]:
    with transaction() as session:
        return dict(session.execute(select(Artifact.name, Artifact.state)).tuples().all())


# claims


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


# fencing


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


# steps and artifacts


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


# cancel, undo


def test_a_cancelled_operation_starts_no_step_but_undoes(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "volume", makes=makes)
    operations.cancel(claim.operation_id, None, "tester")
    before = snapshot()
    with pytest.raises(OperationCancelled, match="before step 'seed'"):
        journal.begin(claim, "seed")
    assert snapshot() == before
    journal.undoing(claim, "Cancelled on request.")
    blueprint = journal.begin(claim, "volume", undo=True)
    journal.end(claim, "volume", removed=makes(blueprint), undo=True)
    journal.undone(claim)
    view = operations.get(claim.operation_id)
    assert (view.phase, view.error) == (Phase.CANCELLED, "Cancelled on request.")
    assert servers.get(claim.server_id).status is Status.ERROR


def test_a_deletion_goes_on_whatever_is_asked(catalogue: Catalogue) -> None:
    deletion = ask(Verb.DELETE, active(catalogue))
    with transaction() as session:
        session.get_one(Operation, deletion.operation_id).cancel_requested = True
    assert journal.begin(deletion, "power-off").verb is Verb.DELETE


def test_the_first_error_is_the_one_that_is_kept(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    for name in ("substrate", "volume", "seed"):
        journal.begin(claim, name)
        journal.end(claim, name)
    begun = journal.undoing(claim, "no memory")
    assert [row.name for row in begun] == ["seed", "volume", "substrate"]
    reconcile.requeue(claim.operation_id, claim.attempt, "it died while undoing")
    again = journal.claim(claim.operation_id)
    assert again.undoing
    journal.undoing(again, "the pool is gone too")
    journal.undone(again)
    assert operations.get(claim.operation_id).error == "no memory"
    assert servers.get(claim.server_id).fault == "no memory"


def test_an_undone_creation_gives_everything_back(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.undoing(claim, "no memory")
    journal.undone(claim)
    with transaction() as session:
        assert reservations.reserved_by_project(session, catalogue.project_id).servers == 0
        for table in (Address, Nic, PortForward, Disk):
            assert session.scalars(select(table)).all() == []
    shown = servers.get(claim.server_id)
    assert (shown.address, shown.ssh_port, shown.mac) == (None, None, None)


def test_what_could_not_be_undone_stays_reserved(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    journal.begin(claim, "volume", makes=makes)
    journal.undoing(claim, "no memory")
    journal.undone(claim)
    with transaction() as session:
        assert reservations.reserved_by_project(session, catalogue.project_id).servers == 1
    assert servers.get(claim.server_id).address == "10.64.0.10"


@pytest.mark.parametrize("verb", [Verb.STOP, Verb.REBOOT, Verb.REBUILD, Verb.CONFIGURE])
def test_an_undone_verb_leaves_the_server_as_it_was(catalogue: Catalogue, verb: Verb) -> None:
    server_id = active(catalogue)
    claim = ask(verb, server_id)
    journal.undoing(claim, "the guest does not answer")
    journal.undone(claim)
    server = servers.get(server_id)
    assert (server.status, server.operation_id) == (Status.ACTIVE, None)
    assert server.fault == "the guest does not answer"
    journal.complete(ask(Verb.REBOOT, server_id))
    assert servers.get(server_id).fault is None


def test_a_deletion_that_fails_can_be_asked_for_again(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    claim = ask(Verb.DELETE, server_id)
    journal.begin(claim, "power-off")
    journal.undoing(claim, "the host is away")
    journal.undone(claim)
    assert servers.get(server_id).status is Status.ERROR
    again = ask(Verb.DELETE, server_id)
    assert journal.begin(again, "power-off").ip == "10.64.0.10"
    journal.complete(again)
    assert servers.get(server_id).status is Status.DELETED


# end


def test_a_deletion_that_left_something_is_not_complete(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    blueprint = journal.begin(claim, "volume", makes=makes)
    journal.end(claim, "volume", made=makes(blueprint))
    journal.complete(claim)
    deletion = ask(Verb.DELETE, claim.server_id)
    before = snapshot()
    with pytest.raises(Conflict, match="still has artifacts"):
        journal.complete(deletion)
    after = snapshot()
    assert {name for name in after if after[name] != before[name]} <= {"operations"}  # heartbeat
    journal.begin(deletion, "remove-volume")
    journal.end(deletion, "remove-volume", removed=makes(blueprint))
    journal.complete(deletion)
    assert servers.get(claim.server_id).status is Status.DELETED


def test_a_deletion_gives_everything_back_and_wipes_the_secrets(catalogue: Catalogue) -> None:
    server_id = active(
        catalogue, user_data="#!/bin/sh\n", runcmd=["secret"], root_password=True, roles=[]
    )
    journal.complete(ask(Verb.DELETE, server_id))
    with transaction() as session:
        assert reservations.reserved_by_project(session, catalogue.project_id).servers == 0
        assert all(h.reserved.vcpus == 0 for h in reservations.capacities(session, lock=False))
        server = session.get_one(Server, server_id)
        kept = {
            name: getattr(server, name)
            for name in (
                "user_data",
                "runcmd",
                "role_requests",
                "root_password",
                "root_password_hash",
                "host_key_private",
            )
        }
        events = session.scalars(select(Event).order_by(Event.id)).all()
    assert set(kept.values()) == {None}, kept
    assert [event.kind for event in events] == [
        "server.create.accepted",
        "server.create.done",
        "server.delete.accepted",
        "server.delete.done",
    ]
    assert (events[-1].before, events[-1].after) == ({"status": "active"}, {"status": "deleted"})
    assert servers.get(server_id).deleted_at is not None
    again = catalogue.create("web")
    assert servers.get(again.server_id).address == "10.64.0.10", "the address is free again"


def test_secrets_of_an_operation_end_with_it(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    view = accept.request(
        Verb.CONFIGURE, server_id, ConfigureRequest(), project_id=None, actor="tester"
    )
    with transaction() as session:
        session.get_one(Operation, view.id).secret_request = json.dumps([{"name": "r"}])
    claim = journal.claim(view.id)
    assert [role.name for role in journal.begin(claim, "configure").roles] == ["r"]
    journal.undoing(claim, "no")
    journal.undone(claim)
    with transaction() as session:
        assert session.get_one(Operation, view.id).secret_request is None


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
