"""How operations end, on both databases: cancelled, undone, complete."""

import json

import pytest
from conftest import Catalogue
from journaled import active, ask, makes, snapshot, started
from sqlalchemy import select

from innkeeper.db.models import Address, Disk, Event, Nic, Operation, PortForward, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import ConfigureRequest
from innkeeper.errors import Conflict, OperationCancelled
from innkeeper.services import accept, journal, operations, reconcile, reservations, servers


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
