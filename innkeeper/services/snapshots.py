"""Snapshots as people see them, and how steps change what the database says of them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Disk, Server, Snapshot, now
from innkeeper.db.session import transaction
from innkeeper.domain.layers import Layers
from innkeeper.domain.lifecycle import TRANSITIONS, Verb
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import NotFound
from innkeeper.services import events, journal, layering, lineage, paging, verifying
from innkeeper.services.views import Page, SnapshotView

File = tuple[ArtifactKind, str]


def _view(row: Snapshot, lies_on: UUID | None) -> SnapshotView:
    age = row.max_age_seconds
    return SnapshotView.model_validate(
        {name: getattr(row, name) for name in SnapshotView.model_fields if hasattr(row, name)}
        | {
            "current": row.id == lies_on,
            "expires_at": row.created_at + timedelta(seconds=age) if age else None,
        }
    )


def _server(session: Session, server_id: UUID, project_id: UUID | None) -> Server:
    server = session.get(Server, server_id)
    if server is None or (project_id is not None and server.project_id != project_id):
        raise NotFound("There is no such server: see `innkeeper server list`.")
    return server


def _lies_on(session: Session, server_id: UUID) -> UUID | None:
    return session.scalar(select(Disk.snapshot_id).where(Disk.server_id == server_id).limit(1))


def get(server_id: UUID, name_or_id: str, project_id: UUID | None = None) -> SnapshotView:
    """Return a snapshot of a server of the project (None: of any), or raise NotFound."""
    with transaction() as session:
        server = _server(session, server_id, project_id)
        return _view(layering.find(session, server, name_or_id), _lies_on(session, server_id))


def page(
    server_id: UUID,
    project_id: UUID | None = None,
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[SnapshotView]:
    """Return a page of a server's snapshots, newest first; `parent_id` makes them a tree."""
    with transaction() as session:
        _server(session, server_id, project_id)
        rows, following = paging.page(
            session,
            select(Snapshot).where(Snapshot.server_id == server_id),
            Snapshot.created_at,
            Snapshot.id,
            limit=limit,
            cursor=cursor,
        )
        lies_on = _lies_on(session, server_id)
        return Page(items=[_view(row, lies_on) for row in rows], next_cursor=following)


def change(
    server_id: UUID,
    snapshot_id: UUID,
    fields: dict[str, Any],
    *,
    project_id: UUID | None,
    actor: str,
) -> SnapshotView:
    """Change what is said of a snapshot; nothing happens to its files.

    Raises:
        NotFound: no such snapshot in the project.
    """
    renamed = {"max_age": "max_age_seconds"}
    asked = {renamed.get(name, name): value for name, value in fields.items()}
    with transaction() as session:
        server = _server(session, server_id, project_id)
        snapshot = layering.find(session, server, str(snapshot_id))
        before = {name: getattr(snapshot, name) for name in asked}
        for name, value in asked.items():
            setattr(snapshot, name, value)
        if asked != before:
            events.record(
                session,
                "snapshot.changed",
                actor=actor,
                project_id=server.project_id,
                server_id=server.id,
                reason=f"snapshot {snapshot.name}",
                before=before,
                after=asked,
            )
        session.flush()
        return _view(snapshot, _lies_on(session, server_id))


def expired() -> list[tuple[UUID, UUID, str]]:
    """Return server, snapshot and name of those whose age is over, or whose clones are gone.

    Oldest first. Of servers that are free, and at rest where a snapshot can be deleted: not of
    shelved or suspended ones.
    """
    instant = now()
    with transaction() as session:
        rows = session.scalars(
            select(Snapshot)
            .join(Server, Server.id == Snapshot.server_id)
            .where(
                or_(
                    (Snapshot.phase == "ready") & Snapshot.max_age_seconds.is_not(None),
                    lineage.is_needless(),
                ),
                Server.operation_id.is_(None),
                Server.status.in_(TRANSITIONS[Verb.DELETE_SNAPSHOT].allowed),
            )
            .order_by(Snapshot.created_at)
        )
        return [
            (row.server_id, row.id, row.name)
            for row in rows
            if row.max_age_seconds is None
            or row.created_at + timedelta(seconds=row.max_age_seconds) <= instant
        ]


def _disk(session: Session, held: Claim) -> Disk:
    return session.scalars(select(Disk).where(Disk.server_id == held.server_id)).one()


def adopt(
    held: Claim, layer: str, *, kind: str, memory_volume: str | None, size_bytes: int
) -> None:
    """Make the server's disk the snapshot's frozen file, and `layer` the server's disk.

    A server that was only frozen to be cloned is free again.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        disk = _disk(session, held)
        snapshot = session.get_one(Snapshot, UUID(operation.request["snapshot_id"]))
        if snapshot.volume is not None:
            return
        snapshot.volume, snapshot.memory_volume = disk.volume, memory_volume
        snapshot.parent_id = disk.snapshot_id
        snapshot.kind, snapshot.size_bytes, snapshot.phase = kind, size_bytes, "ready"
        snapshot.created_at = now()
        disk.volume, disk.snapshot_id = layer, snapshot.id
        lineage.let_go(session, operation)


def adopt_verdict(held: Claim, outcome: str, detail: str, seconds: float) -> None:
    """Keep how the verification of a snapshot went.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        snapshot = session.get_one(Snapshot, UUID(operation.request["snapshot_id"]))
        if snapshot.verified_at is None or snapshot.verified_at < operation.created_at:
            verifying.write(session, snapshot, outcome, detail, seconds, operation)


def adopt_layer(held: Claim, layer: str) -> None:
    """Make the fresh layer on a snapshot the server's disk; from here on there is no way back.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        disk = _disk(session, held)
        if disk.volume == layer:
            return
        operation.request = operation.request | {"old_volume": disk.volume}
        disk.volume, disk.snapshot_id = layer, UUID(operation.request["snapshot_id"])


def forget(held: Claim, left: Layers, sizes: dict[str, int], dropped: Sequence[File]) -> None:
    """Take a snapshot out of the tree; note which files are to be deleted after it.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        identifier = UUID(operation.request["snapshot_id"])
        gone = session.get(Snapshot, identifier)
        if gone is None:
            return
        for layer in left.frozen:
            row = session.get_one(Snapshot, layer.id)
            row.parent_id, row.volume = layer.parent_id, layer.volume
            _weigh(row, sizes)
        _disk(session, held).snapshot_id = left.top_parent
        operation.request = operation.request | {"dropped": [list(entry) for entry in dropped]}
        session.flush()  # nothing refers to it any more
        session.delete(gone)


def weigh(held: Claim, sizes: dict[str, int]) -> None:
    """Note what the files of a server's snapshots take, after something may have changed that.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        of_server = select(Snapshot).where(Snapshot.server_id == held.server_id)
        for row in session.scalars(of_server.where(Snapshot.volume.is_not(None))):
            _weigh(row, sizes)


def _weigh(row: Snapshot, sizes: dict[str, int]) -> None:
    row.size_bytes = sizes.get(row.volume or "", 0) + sizes.get(row.memory_volume or "", 0)
