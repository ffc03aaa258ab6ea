"""Data disks as people see them, how steps change what the database says, and their deletion."""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from innkeeper.contracts import Claim
from innkeeper.db.models import Artifact, DataDisk, Host, Operation, Server
from innkeeper.db.session import transaction
from innkeeper.domain.naming import disk_serial, in_pool
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import Conflict, NotFound, TransientError
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolAbsent, SubstrateInactive
from innkeeper.services import attachments, diskplans, events, journal, paging
from innkeeper.services.planning import ACT, Foresight
from innkeeper.services.views import DiskView, Page

BY_ID = "/dev/disk/by-id/virtio-"


def views(session: Session, rows: Sequence[DataDisk]) -> list[DiskView]:
    """Return read models of disks, in a constant number of queries."""
    servers = {row.server_id for row in rows if row.server_id}
    hosts = {row.host_id for row in rows}
    owners = dict(
        session.execute(select(Server.id, Server.name).where(Server.id.in_(servers))).tuples().all()
    )
    places = dict(
        session.execute(select(Host.id, Host.name).where(Host.id.in_(hosts))).tuples().all()
    )
    return [
        DiskView.model_validate(
            {name: getattr(row, name) for name in DiskView.model_fields if hasattr(row, name)}
            | {
                "server": owners.get(row.server_id) if row.server_id else None,
                "host": places[row.host_id],
                "device": BY_ID + disk_serial(row.id),
            }
        )
        for row in rows
    ]


def _visible(
    session: Session, disk_id: UUID, project_id: UUID | None, *, lock: bool = False
) -> DataDisk:
    row = session.get(DataDisk, disk_id, with_for_update=lock or None)
    if row is None or (project_id is not None and row.project_id != project_id):
        raise NotFound("There is no such disk: see `innkeeper disk list`.")
    return row


def get(disk_id: UUID, project_id: UUID | None = None) -> DiskView:
    """Return a data disk of the project (None: of any), or raise NotFound."""
    with transaction() as session:
        return views(session, [_visible(session, disk_id, project_id)])[0]


def page(
    project_id: UUID | None = None,
    *,
    server_id: UUID | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[DiskView]:
    """Return a page of data disks, attached and kept, newest first."""
    statement = select(DataDisk)
    if project_id is not None:
        statement = statement.where(DataDisk.project_id == project_id)
    if server_id is not None:
        statement = statement.where(DataDisk.server_id == server_id)
    with transaction() as session:
        rows, following = paging.page(
            session, statement, DataDisk.created_at, DataDisk.id, limit=limit, cursor=cursor
        )
        return Page(items=views(session, rows), next_cursor=following)


def delete(
    disk_id: UUID, *, project_id: UUID | None, actor: str, foresight: Foresight = ACT
) -> None:
    """Delete a kept disk and what is on it.

    That it is to go is committed first: if its host cannot do it now, or its pool is stopped or not
    defined there, reconcile sees to it later.

    Raises:
        Foreseen: it was a dry run; the plan is in it.
        NotFound: there is no such disk in the project.
        Conflict: a server has it, or it is not as in the plan that was shown.
    """
    with transaction() as session:
        row = _visible(session, disk_id, project_id, lock=True)
        if row.phase not in {"available", "deleting"}:
            owner = session.get(Server, row.server_id) if row.server_id else None
            whose = f"'{owner.name}'" if owner else "a server"
            raise Conflict(
                f"{whose} has disk '{row.name}': detach it first (`innkeeper disk detach`)."
            )
        diskplans.tell(session, row, foresight)
        row.phase = "deleting"
        _record(session, row, "disk.deletion.accepted", actor)
    with suppress(TransientError, SubstrateInactive, PoolAbsent):
        erase(disk_id)


def erase(disk_id: UUID) -> None:
    """Remove the volume of a disk whose phase is deleting, then forget the disk.

    Of a shelved server's only what was left on a host is there; what is on the shelf has rows of
    its own.

    Killed in between, it is done again; a disk of another phase is left alone.

    Raises:
        HostUnreachable, PoolBusy, SubstrateInactive, PoolAbsent: nothing was forgotten.
    """
    with transaction() as session:
        row = session.get(DataDisk, disk_id)
        if row is None or row.phase != "deleting":
            return
        host, pool, volume = session.get_one(Host, row.host_id), row.pool, row.volume
        there = _copy_on(row)
        owner = session.get(Server, row.server_id) if row.server_id else None
        shelved = owner is not None and not owner.placed
        asked = not shelved or session.scalar(select(Artifact.id).where(*there)) is not None
    if asked:
        storage.delete_volume(connect(host.uri), pool, volume, in_pool=True)
    with transaction() as session:
        row = session.get(DataDisk, disk_id, with_for_update=True)
        if row is not None and row.phase == "deleting":
            session.execute(sa.delete(Artifact).where(*there))
            _record(session, row, "disk.deleted")
            session.delete(row)


def adopt(held: Claim, *, attached: bool = True) -> None:
    """Note that an operation's disk is its server's now; not `attached`: not yet, after all.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        row = _of(session, operation)
        on_the_way = "creating" if operation.request["new"] else "attaching"
        before, row.phase = row.phase, "attached" if attached else on_the_way
        if row.phase != before:
            kind = "disk.attached" if attached else "disk.attachment.undone"
            _record(session, row, kind, operation.actor, operation)


def let_go(held: Claim, *, keep: bool) -> None:
    """Note that an operation's disk is no server's any more: there is no way back from here.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        operation.request = operation.request | {journal.COMMITTED: True}
        row = session.get(DataDisk, UUID(operation.request["disk_id"]))
        if row is not None and row.server_id == operation.server_id:
            _record(session, row, "disk.detached", operation.actor, operation)
            row.server_id = row.target = None
            row.phase = "available" if keep else "deleting"


def part(held: Claim) -> list[UUID]:
    """Part a server that is deleted from its disks: note which are kept, return those that go.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        server = session.get_one(Server, held.server_id)
        going = []
        for row in attachments.held_by(session, server):
            if row.delete_on_server_delete or row.phase == "deleting":
                row.phase = "deleting"
                going.append(row.id)
            else:
                _record(session, row, "disk.detached", operation.actor, operation)
                row.server_id, row.target, row.phase = None, None, "available"
        return going


def put_off(held: Claim, disk_id: UUID, reason: str) -> None:
    """Leave the deletion of a disk to reconcile; why is told as an event.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        row = session.get(DataDisk, disk_id, with_for_update=True)
        if row is not None and row.phase == "deleting":
            _record(session, row, "disk.deletion.waits", operation.actor, operation, reason)
            row.server_id = row.target = None


def depart(session: Session, held: Claim) -> tuple[Operation, Server] | None:
    """Pass the point of no return of what takes a server off its host; None: that was passed.

    What the host has of its data disks is to go: a disk's own row tells of it where the server is,
    an artifact's that there is a copy elsewhere.

    Raises:
        ClaimLost: the operation was taken over.
    """
    operation = journal.hold(session, held)
    if operation.request.get(journal.COMMITTED):
        return None
    operation.request = operation.request | {journal.COMMITTED: True}
    server = session.get_one(Server, held.server_id)
    for row in attachments.held_by(session, server):
        session.execute(sa.delete(Artifact).where(*_copy_on(row)))
        session.add(
            Artifact(
                host_id=row.host_id,
                server_id=server.id,
                operation_id=operation.id,
                kind=ArtifactKind.VOLUME,
                name=in_pool(row.pool, row.volume),
                state="present",
            )
        )
    return operation, server


def arrive(session: Session, server: Server) -> None:
    """Note that the copies of a server's data disks on its host are the disks themselves."""
    for row in attachments.held_by(session, server):
        row.host_id = server.host_id or row.host_id
        session.execute(sa.delete(Artifact).where(*_copy_on(row)))


def _copy_on(row: DataDisk) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for the artifact that is a copy of a data disk where it lies itself."""
    return (
        Artifact.host_id == row.host_id,
        Artifact.kind == ArtifactKind.VOLUME,
        Artifact.name == in_pool(row.pool, row.volume),
    )


def keep_size(held: Claim, size_gib: int) -> None:
    """Note that a disk has grown to this for good: an undo leaves that.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        operation.request = operation.request | {"disk_before": {"size_gib": size_gib}}


def _of(session: Session, operation: Operation) -> DataDisk:
    return session.get_one(DataDisk, UUID(operation.request["disk_id"]))


def _record(
    session: Session,
    row: DataDisk,
    kind: str,
    actor: str = "system",
    operation: Operation | None = None,
    why: str = "",
) -> None:
    events.record(
        session,
        kind,
        actor=actor,
        project_id=row.project_id,
        server_id=row.server_id,
        operation_id=operation.id if operation else None,
        reason=f"disk {row.name}, {row.size_gib} GiB{why and f': {why}'}",
    )
