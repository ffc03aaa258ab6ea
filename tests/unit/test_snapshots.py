"""Snapshots in the database: acceptance, quota, tree, what they forbid, what people see."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue, Race
from pydantic import BaseModel
from sqlalchemy import select

from innkeeper.contracts import Claim
from innkeeper.db.models import Disk, Event, Operation, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.layers import Layers
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import DeleteSnapshotRequest, RevertRequest, SnapshotRequest
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from innkeeper.services import accept, journal, operations, projects, servers, snapshots
from innkeeper.services.views import OperationView

GIB = 1 << 30


def active(catalogue: Catalogue, name: str = "web") -> UUID:
    operation = catalogue.create(name)
    journal.complete(journal.claim(operation.id))
    return operation.server_id


def ask(verb: Verb, server_id: UUID, body: BaseModel | None = None, **more: Any) -> OperationView:
    return accept.request(verb, server_id, body, **({"project_id": None, "actor": "me"} | more))


def take(server_id: UUID, name: str, **fields: Any) -> UUID:
    """Have a snapshot taken, as its steps would write it down."""
    view = ask(Verb.SNAPSHOT, server_id, SnapshotRequest(name=name, **fields))
    held = journal.claim(view.id)
    begun = journal.begin(held, "layer")
    memory = f"{name}.mem" if fields.get("memory") else None
    snapshots.adopt(held, begun.snapshot_layer, kind="stopped", memory_volume=memory, size_bytes=7)
    snapshots.adopt(held, begun.snapshot_layer, kind="stopped", memory_volume=memory, size_bytes=7)
    journal.complete(held)
    assert view.snapshot_id is not None
    return view.snapshot_id


def put(table: Any, identifier: UUID, **fields: Any) -> None:
    with transaction() as session:
        row = session.get_one(table, identifier)
        for name, value in fields.items():
            setattr(row, name, value)


def disk(server_id: UUID) -> tuple[str, UUID | None]:
    with transaction() as session:
        row = session.scalars(select(Disk).where(Disk.server_id == server_id)).one()
        return row.volume, row.snapshot_id


def revert(server_id: UUID, name: str) -> Claim:
    held = journal.claim(ask(Verb.REVERT, server_id, RevertRequest(snapshot=name)).id)
    snapshots.adopt_layer(held, journal.begin(held, "fresh-layer").revert_layer)
    return held


def test_snapshots_make_a_tree_and_the_disk_moves_up(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    root, _ = disk(server_id)
    first = take(server_id, "first", description="before all")
    above, lies_on = disk(server_id)
    assert (above, lies_on) == (f"{server_id}-root.{first.hex}.qcow2", first)
    second = take(server_id, "second")
    held = revert(server_id, "first")
    journal.complete(held)
    third = take(server_id, "third")
    views = {view.id: view for view in snapshots.page(server_id).items}
    assert [views[i].parent_id for i in (first, second, third)] == [None, first, first]
    assert [views[i].current for i in (first, second, third)] == [False, False, True]
    assert (views[first].phase, views[first].kind, views[first].size_bytes) == (
        "ready",
        "stopped",
        7,
    )
    assert snapshots.get(server_id, "first").description == "before all"
    with transaction() as session:
        assert session.get_one(Snapshot, first).volume == root
        assert session.get_one(Snapshot, second).volume == above


def test_a_server_ends_as_it_was_or_as_its_memory_says(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    take(server_id, "disk")
    take(server_id, "memory", memory=True)
    for name, before, after in (
        ("disk", Status.ACTIVE, Status.ACTIVE),
        ("disk", Status.STOPPED, Status.STOPPED),
        ("memory", Status.STOPPED, Status.ACTIVE),
    ):
        put(Server, server_id, status=before)
        journal.complete(revert(server_id, name))
        assert servers.get(server_id).status is after


def test_quota_is_reserved_with_the_acceptance(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"web-{number}") for number in range(6)]
    catalogue.set_quota(snapshots=3, snapshot_gib=-1)
    results = race(6, lambda number: ask(Verb.SNAPSHOT, ids[number]))
    refused = [error for error in results if isinstance(error, QuotaExceeded)]
    assert (len(results) - len(refused), len(refused)) == (3, 3)
    assert "3 of 3 snapshots in use, 1 more asked" in str(refused[0])
    assert projects.quota(catalogue.project_id).used_snapshots == 3
    assert projects.quota(catalogue.project_id).used_snapshot_gib == 3, "a disk of 1 GiB each"


def test_size_counts_as_the_most_it_can_be_until_it_is_known(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    catalogue.set_quota(snapshot_gib=1)
    with pytest.raises(QuotaExceeded, match="GiB of snapshots in use, 2 more asked"):
        ask(Verb.SNAPSHOT, server_id, SnapshotRequest(memory=True))
    assert snapshots.page(server_id).items == []
    take(server_id, "small")
    assert projects.quota(catalogue.project_id).used_snapshot_gib == 1, "7 bytes, rounded up"
    with pytest.raises(QuotaExceeded):
        take(server_id, "other")


def test_a_failed_one_holds_nothing_and_frees_its_name(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    held = journal.claim(ask(Verb.SNAPSHOT, server_id, SnapshotRequest(name="one")).id)
    journal.undoing(held, "no agent")
    journal.undone(held)
    (failed,) = snapshots.page(server_id).items
    assert (failed.phase, failed.fault, failed.size_bytes) == ("failed", "no agent", 0)
    assert projects.quota(catalogue.project_id).used_snapshots == 0
    assert servers.get(server_id).status is Status.ACTIVE
    identifier = take(server_id, "one")
    assert snapshots.get(server_id, "one").id == identifier, "the usable one has the name"
    with pytest.raises(Conflict, match="is failed, not ready"):
        ask(Verb.REVERT, server_id, RevertRequest(snapshot=str(failed.id)))
    ask(Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot=str(failed.id)))


def test_names_are_unique_on_a_server(catalogue: Catalogue) -> None:
    first, second = active(catalogue, "web"), active(catalogue, "db")
    take(first, "one")
    take(second, "one")
    with pytest.raises(Conflict, match="'web' has a snapshot 'one' already"):
        ask(Verb.SNAPSHOT, first, SnapshotRequest(name="one"))
    assert servers.get(first).operation_id is None
    take(first, "two")


def test_what_cannot_be_asked(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    identifier = take(server_id, "one")
    for verb, body in (
        (Verb.REVERT, RevertRequest(snapshot="none")),
        (Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot=str(uuid4()))),
    ):
        with pytest.raises(NotFound, match="'web' has no snapshot"):
            ask(verb, server_id, body)
    with pytest.raises(NotFound):
        ask(Verb.REVERT, active(catalogue, "db"), RevertRequest(snapshot=str(identifier)))
    with pytest.raises(NotFound):
        snapshots.get(server_id, "one", uuid4())
    put(Server, server_id, status=Status.STOPPED)
    with pytest.raises(InvalidRequest, match="has no memory to keep"):
        ask(Verb.SNAPSHOT, server_id, SnapshotRequest(memory=True))
    put(Snapshot, identifier, phase="deleting")
    with pytest.raises(Conflict, match="is deleting"):
        ask(Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot="one"))


def test_a_change_is_an_event_and_forbids_or_allows(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    identifier = take(server_id, "one")

    def change(**fields: Any) -> None:
        snapshots.change(server_id, identifier, fields, project_id=None, actor="me")

    change(enabled=False, max_age=60)
    view = snapshots.get(server_id, "one")
    assert (view.enabled, view.max_age_seconds) == (False, 60)
    assert view.expires_at is not None
    with pytest.raises(Conflict, match="not enabled"):
        ask(Verb.REVERT, server_id, RevertRequest(snapshot="one"))
    change(enabled=True)
    change(enabled=True)
    with transaction() as session:
        told = session.scalars(select(Event).where(Event.kind == "snapshot.changed")).all()
    assert [event.after for event in told] == [
        {"enabled": False, "max_age_seconds": 60},
        {"enabled": True},
    ]
    with pytest.raises(NotFound):
        snapshots.change(server_id, identifier, {}, project_id=uuid4(), actor="me")


def test_snapshots_stand_in_the_way_of_rebuild_and_some_of_deletion(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    take(server_id, "one")
    identifier = take(server_id, "held", delete_on_server_delete=False)
    with pytest.raises(Conflict, match=r"cannot rebuild, it has snapshots .*: one, held"):
        ask(Verb.REBUILD, server_id)
    with pytest.raises(Conflict, match=r"cannot delete, it has snapshots .*: held"):
        ask(Verb.DELETE, server_id)
    put(Snapshot, identifier, delete_on_server_delete=True)
    deletion = journal.claim(ask(Verb.DELETE, server_id).id)
    assert len(journal.begin(deletion, "remove-snapshots").snapshots) == 2
    journal.complete(deletion)
    with transaction() as session:
        assert session.scalars(select(Snapshot)).all() == []


def test_expired_ones_are_found_when_nothing_holds_the_server(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    old = take(server_id, "old", max_age=60)
    take(server_id, "young", max_age=3600)
    take(server_id, "for-ever")
    assert snapshots.expired() == []
    with transaction() as session:
        row = session.get_one(Snapshot, old)
        row.created_at = row.created_at.replace(year=2020)
    assert snapshots.expired() == [(server_id, old, "old")]
    for status in (Status.SHELVED, Status.SUSPENDED):
        put(Server, server_id, status=status)
        assert snapshots.expired() == [], f"refused each minute while it is {status}"
    put(Server, server_id, status=Status.ACTIVE)
    assert snapshots.expired() == [(server_id, old, "old")]
    ask(Verb.STOP, server_id)
    assert snapshots.expired() == []


def test_a_deleted_one_leaves_the_tree_whole(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    first, second = take(server_id, "first"), take(server_id, "second")
    view = ask(Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot="first"))
    held = journal.claim(view.id)
    begun = journal.begin(held, "merge")
    left = begun.layers.removal(first, live=True)
    dropped = [(ArtifactKind.VOLUME, left.drop)]
    for _ in range(2):
        snapshots.forget(held, left.left, {left.left.frozen[0].volume: 11}, dropped)
    assert journal.begin(held, "remove-layer").request["dropped"] == [["volume", left.drop]]
    journal.complete(held)
    (view_of,) = snapshots.page(server_id).items
    assert (view_of.id, view_of.parent_id, view_of.size_bytes) == (second, None, 11)
    with transaction() as session:
        assert session.get_one(Snapshot, second).volume == f"{server_id}-root.qcow2"


def test_a_deletion_that_failed_says_what_is_left(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    take(server_id, "one")
    for spoiled, phase in ((False, "ready"), (True, "failed")):
        view = ask(Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot="one"))
        held = journal.claim(view.id)
        journal.begin(held, "merge")
        if spoiled:
            journal.note(held, "merge", commits=True)
        assert journal.noted(held, "merge") == ({"commits": True} if spoiled else {})
        assert journal.noted(held, "unknown") == {}
        journal.undoing(held, "no space")
        journal.undone(held)
        assert operations.get(view.id).phase is Phase.FAILED
        assert snapshots.get(server_id, "one").phase == phase


def test_a_deletion_of_a_snapshot_cannot_be_cancelled(catalogue: Catalogue) -> None:
    server_id = active(catalogue)
    take(server_id, "one")
    view = ask(Verb.DELETE_SNAPSHOT, server_id, DeleteSnapshotRequest(snapshot="one"))
    with pytest.raises(Conflict, match="cannot be cancelled"):
        operations.cancel(view.id, None, "me")
    with transaction() as session:
        session.get_one(Operation, view.id).cancel_requested = True
    held = journal.claim(view.id)
    assert isinstance(journal.begin(held, "merge").layers, Layers)
    assert not journal.cancelled(held)
