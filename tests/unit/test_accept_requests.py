"""Acceptance of verbs on existing servers, and their cancellation, on both databases."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue, Race
from pydantic import BaseModel
from sqlalchemy import delete, func, select

from innkeeper.contracts import REQUESTS
from innkeeper.db.models import (
    Artifact,
    DataDisk,
    Disk,
    Event,
    Image,
    Nic,
    Operation,
    Project,
    Quota,
    Server,
    Snapshot,
)
from innkeeper.db.session import transaction
from innkeeper.domain.diskspecs import AttachDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Phase, Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.domain.specs import (
    ConfigureRequest,
    DeleteSnapshotRequest,
    MigrateRequest,
    RebootRequest,
    RebuildRequest,
    ResizeRequest,
    RevertRequest,
    VerifySnapshotRequest,
)
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import accept, cards, journal, operations, reservations, servers
from innkeeper.services.views import OperationView

# Clones are made and flattened in test_clones.py, disks are grown and detached in test_disks.py,
# network cards are detached in test_nics.py.
ELSEWHERE = {
    *(Verb.CREATE, Verb.CLONE, Verb.FLATTEN),
    *(Verb.DETACH_DISK, Verb.GROW_DISK, Verb.DETACH_NIC),
}
VERBS = [verb for verb in Verb if verb not in ELSEWHERE]
BODIES: dict[Verb, BaseModel] = {
    Verb.REVERT: RevertRequest(snapshot="kept"),
    Verb.DELETE_SNAPSHOT: DeleteSnapshotRequest(snapshot="kept"),
    Verb.VERIFY_SNAPSHOT: VerifySnapshotRequest(snapshot="kept"),
    Verb.RESIZE: ResizeRequest(plan="small", allow_power_cycle=True),
    Verb.ATTACH_DISK: AttachDiskRequest(name="data", size_gib=1),
    Verb.ATTACH_NIC: AttachNicRequest(name="lan"),
    Verb.MIGRATE: MigrateRequest(allow_power_cycle=True),
}


def active(catalogue: Catalogue, name: str = "web") -> UUID:
    """Return a server whose creation is done."""
    operation = catalogue.create(name)
    journal.complete(journal.claim(operation.id))
    return operation.server_id


def ask(
    verb: Verb,
    server_id: UUID,
    body: BaseModel | None = None,
    *,
    project_id: UUID | None = None,
    key: str | None = None,
) -> OperationView:
    return accept.request(
        verb, server_id, body, project_id=project_id, actor="tester", idempotency_key=key
    )


def put(server_id: UUID, **fields: Any) -> None:
    with transaction() as session:
        server = session.get_one(Server, server_id)
        for name, value in fields.items():
            setattr(server, name, value)
        reservations.settle(session, server)


def test_every_verb_from_every_status(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with transaction() as session:
        kept = Snapshot(server_id=server_id, project_id=catalogue.project_id, name="kept")
        session.add(kept)
    accepted = 0
    for status in Status:
        for verb in VERBS:
            put(server_id, status=status, operation_id=None, memory_mib=192, disk_gib=1)
            with transaction() as session:
                session.get_one(Snapshot, kept.id).phase = "ready"
                session.execute(delete(DataDisk))
                for nic in session.scalars(select(Nic).where(Nic.position > 0)):
                    cards.forget(session, nic)
            if status in TRANSITIONS[verb].allowed:
                operation = ask(verb, server_id, BODIES.get(verb))
                accepted += 1
                assert (operation.verb, operation.phase) == (verb, Phase.QUEUED)
                held = servers.get(server_id)
                assert (held.operation_id, held.status, held.allowed) == (operation.id, status, [])
            else:
                with pytest.raises(Conflict, match=f"is {status} cannot {verb}"):
                    ask(verb, server_id, BODIES.get(verb))
    with transaction() as session:
        assert session.scalar(select(func.count(Operation.id))) == accepted + 1


def test_of_verbs_that_race_for_one_server_one_wins(catalogue: Catalogue, race: Race) -> None:
    server_id = active(catalogue)
    verbs = [Verb.STOP, Verb.REBOOT, Verb.REBUILD, Verb.DELETE, Verb.SNAPSHOT] * 3
    results = race(len(verbs), lambda number: ask(verbs[number], server_id))
    won = [result for result in results if isinstance(result, OperationView)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert (len(won), len(lost)) == (1, len(verbs) - 1)
    assert servers.get(server_id).operation_id == won[0].id
    assert all(f"Operation {won[0].id} is at work on 'web'" in str(error) for error in lost)


def test_a_deletion_of_a_failed_server_that_left_nothing_ends_at_once(
    catalogue: Catalogue,
) -> None:
    claim = journal.claim(catalogue.create("web").id)
    journal.undoing(claim, "no disk")
    journal.undone(claim)
    assert servers.get(claim.server_id).status is Status.ERROR
    operation = ask(Verb.DELETE, claim.server_id)
    assert operation.phase is Phase.SUCCEEDED
    assert operation.ended_at is not None
    gone = servers.get(claim.server_id)
    assert (gone.status, gone.operation_id) == (Status.DELETED, None)
    assert gone.deleted_at is not None
    with transaction() as session:
        kinds = session.scalars(select(Event.kind).order_by(Event.id)).all()
    assert kinds == [
        "server.create.accepted",
        "server.create.failed",
        "server.delete.accepted",
        "server.delete.done",
    ]
    assert catalogue.create("web").server_id != claim.server_id, "the name is free again"
    assert servers.find("web").status is Status.REQUESTED
    with pytest.raises(Conflict, match="is deleted cannot delete"):
        ask(Verb.DELETE, claim.server_id)


def test_a_failed_server_that_left_something_is_deleted_by_steps(catalogue: Catalogue) -> None:
    claim = journal.claim(catalogue.create("web").id)
    with transaction() as session:
        session.add(
            Artifact(
                host_id=catalogue.host_ids["alpha"],
                server_id=claim.server_id,
                operation_id=claim.operation_id,
                kind="volume",
                name="left-behind",
            )
        )
    journal.undoing(claim, "no disk")
    journal.undone(claim)
    operation = ask(Verb.DELETE, claim.server_id)
    assert operation.phase is Phase.QUEUED
    deletion = journal.claim(operation.id)
    blueprint = journal.begin(deletion, "power-off")
    assert blueprint.ip == "10.64.0.10", "what it stands on is still reserved"


def test_one_key_one_request(catalogue: Catalogue, race: Race) -> None:
    server_id = active(catalogue)
    results = race(10, lambda _: ask(Verb.STOP, server_id, key="once"))
    assert len({operation.id for operation in results}) == 1
    assert ask(Verb.STOP, server_id, key="once").id == results[0].id
    for verb, body in ((Verb.REBOOT, None), (Verb.REBOOT, RebootRequest(mode="hard"))):
        with pytest.raises(Conflict, match="idempotency key"):
            ask(verb, server_id, body, key="once")


def test_one_key_used_for_two_servers_at_once(catalogue: Catalogue, race: Race) -> None:
    """The servers' locks do not meet here: the database itself has to refuse."""
    both = [active(catalogue, "one"), active(catalogue, "two")]
    results = race(2, lambda number: ask(Verb.STOP, both[number], key="once"))
    (won,) = [result for result in results if isinstance(result, OperationView)]
    (lost,) = [result for result in results if isinstance(result, Conflict)]
    assert "idempotency key" in str(lost)
    other = servers.get(next(server for server in both if server != won.server_id))
    assert other.operation_id is None, "the refused one holds nothing"


def test_a_foreign_server_is_not_there(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    operation_id = operations.page().items[0].id
    for project_id in (uuid4(), UUID(int=0)):
        for verb in VERBS:
            with pytest.raises(NotFound, match="no such server"):
                ask(verb, server_id, BODIES.get(verb), project_id=project_id)
        with pytest.raises(NotFound, match="no such operation"):
            operations.get(operation_id, project_id)
        with pytest.raises(NotFound, match="no such operation"):
            operations.cancel(operation_id, project_id, "tester")
        with pytest.raises(NotFound, match="no such server"):
            servers.get(server_id, project_id)
        assert servers.page(project_id).items == []
        assert operations.page(project_id).items == []
    assert ask(Verb.STOP, server_id, project_id=catalogue.project_id).verb is Verb.STOP


def test_a_key_means_nothing_in_another_project(catalogue: Catalogue) -> None:
    first = catalogue.create("web", key="once")
    second = Project(name="second")
    second.quota = Quota(project_id=second.id)
    with transaction() as session:
        session.add(second)
    wanted = accept.ServerRequest(name="web", image="debian", plan="tiny")
    operation = accept.create_server(
        wanted, project_id=second.id, actor="tester", idempotency_key="once"
    )
    assert operation.id != first.id
    with pytest.raises(Conflict, match="Several projects have a server 'web'"):
        servers.find("web")
    assert servers.find("web", second.id).id == operation.server_id


def test_a_rebuild_checks_its_image_first(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with transaction() as session:
        for name, phase, gib in (("big", "ready", 9), ("late", "importing", 1)):
            session.add(
                Image(name=name, source="x", phase=phase, virtual_size_bytes=gib << 30, path="x")
            )
    for image, error in (("none", NotFound), ("late", InvalidRequest), ("big", InvalidRequest)):
        with pytest.raises(error):
            ask(Verb.REBUILD, server_id, RebuildRequest(image=image))
    assert servers.get(server_id).operation_id is None
    assert ask(Verb.REBUILD, server_id, RebuildRequest(image="debian")).phase is Phase.QUEUED


def test_roles_of_a_configuration_are_kept_apart_and_wiped(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    operation = ask(Verb.CONFIGURE, server_id, ConfigureRequest(roles=[]))
    with transaction() as session:
        row = session.get_one(Operation, operation.id)
        assert "roles" not in row.request
        assert row.secret_request == "[]"
    journal.complete(journal.claim(operation.id))
    with transaction() as session:
        assert session.get_one(Operation, operation.id).secret_request is None


def test_cancel(catalogue: Catalogue) -> None:
    operation = catalogue.create("web")
    cancelled = operations.cancel(operation.id, catalogue.project_id, "tester")
    assert (cancelled.cancel_requested, cancelled.phase) == (True, Phase.QUEUED)
    claim = journal.claim(operation.id)
    journal.undoing(claim, "cancelled")
    journal.undone(claim)
    assert operations.get(operation.id).phase is Phase.CANCELLED
    with pytest.raises(Conflict, match="has cancelled: there is nothing to cancel"):
        operations.cancel(operation.id, None, "tester")


def test_a_deletion_is_not_cancelled(catalogue: Catalogue) -> None:
    operation = ask(Verb.DELETE, active(catalogue))
    with pytest.raises(Conflict, match="cannot be cancelled"):
        operations.cancel(operation.id, None, "tester")


def test_what_waits_for_its_run(catalogue: Catalogue) -> None:
    operation = catalogue.create("web")
    assert [view.id for view in operations.awaiting_dispatch(0)] == [operation.id]
    assert [view.id for view in operations.awaiting_dispatch(60)] == [operation.id]
    operations.mark_dispatched(operation.id, 0, uuid4())
    assert operations.awaiting_dispatch(60) == []
    assert [view.id for view in operations.awaiting_dispatch(0)] == [operation.id]
    journal.claim(operation.id)
    assert operations.awaiting_dispatch(0) == []


def test_a_server_row_stands_for_one_disk_and_one_nic(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    with transaction() as session:
        for table in (Disk, Nic):
            assert session.scalar(select(func.count()).where(table.server_id == server_id)) == 1


def test_every_verb_has_a_request_without_parameters_but_those_that_name_something(
    catalogue: Catalogue,
) -> None:
    naming = set(BODIES) - {Verb.MIGRATE}
    for verb in set(VERBS) - naming:
        REQUESTS[verb]()
    for verb in naming:
        with pytest.raises(InvalidRequest, match=f"{verb} needs (snapshot|name|a plan)"):
            ask(verb, active(catalogue, f"web-{verb}"))
