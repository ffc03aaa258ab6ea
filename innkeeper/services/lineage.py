"""Who stands on whose disk: linked clones, and what may not be done beneath them.

A linked clone's disk names the snapshot of its source that it lies on. The database keeps that row
as long as somebody refers to it; what is refused here is refused with the names of those.
"""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session
from sqlalchemy.sql import ColumnElement

from innkeeper.db.models import Disk, Operation, Server, Snapshot, now
from innkeeper.domain.layers import descendants
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.steps import is_about_source
from innkeeper.errors import Conflict

HARMLESS = frozenset(
    {
        *(Verb.START, Verb.STOP, Verb.REBOOT, Verb.SUSPEND, Verb.RESUME, Verb.CONFIGURE),
        *(Verb.SNAPSHOT, Verb.DELETE_SNAPSHOT, Verb.CLONE, Verb.FLATTEN, Verb.RESIZE),
        Verb.VERIFY_SNAPSHOT,
        *(Verb.ATTACH_DISK, Verb.DETACH_DISK, Verb.GROW_DISK),
        *(Verb.ATTACH_NIC, Verb.DETACH_NIC),
    }
)
"""What may be done to a server with clones; deleting a snapshot is looked at by itself."""


def subject_of(operation: Operation, step: str) -> UUID:
    """Return the server that a step of an operation is done to."""
    if is_about_source(Verb(operation.verb), step):
        return UUID(operation.request["source_id"])
    return operation.server_id


def clones(session: Session, snapshots: Collection[UUID]) -> list[str]:
    """Return the names of the servers whose disks stand on one of these snapshots."""
    return list(
        session.scalars(
            select(Server.name)
            .join(Disk, Disk.server_id == Server.id)
            .where(Disk.base_snapshot_id.in_(snapshots))
            .order_by(Server.name)
        )
    )


def clones_of(session: Session, server_id: UUID) -> list[str]:
    """Return the names of a server's linked clones."""
    own = session.scalars(select(Snapshot.id).where(Snapshot.server_id == server_id))
    return clones(session, own.all())


def ground(session: Session, server_id: UUID) -> list[Snapshot]:
    """Return the frozen files of other servers that a linked clone stands on, nearest first.

    Nothing if it is none. Beneath them is its image.
    """
    found: list[Snapshot] = []
    below = _base(session, server_id)
    while below is not None:
        found.append(session.get_one(Snapshot, below))
        below = found[-1].parent_id or _base(session, found[-1].server_id)
    return found


def _base(session: Session, server_id: UUID) -> UUID | None:
    of_server = select(Disk.base_snapshot_id).where(Disk.server_id == server_id)
    return session.scalars(of_server).first()


def sources_of(session: Session, clones: Collection[UUID]) -> set[UUID]:
    """Return the servers on whose disks one of these linked clones stands."""
    of_clones = select(Disk.base_snapshot_id).where(Disk.server_id.in_(clones))
    return set(session.scalars(select(Snapshot.server_id).where(Snapshot.id.in_(of_clones))))


def require_no_clones(session: Session, server: Server, verb: Verb) -> None:
    """Refuse what would pull the ground from under a server's linked clones.

    Raises:
        Conflict: it names them.
    """
    if verb in HARMLESS:
        return
    if names := clones_of(session, server.id):
        raise Conflict(
            f"'{server.name}' cannot {verb}, linked clones stand on its disk: {', '.join(names)}. "
            "Flatten them (`innkeeper server flatten`) or delete them first."
        )


def require_unused(session: Session, snapshot: Snapshot) -> None:
    """Refuse to merge a snapshot away on which, or on whose descendants, linked clones stand.

    Files above a merged one are written to or replaced, and the clones have them open.

    Raises:
        Conflict: it names them.
    """
    parents = dict(
        session.execute(
            select(Snapshot.id, Snapshot.parent_id).where(Snapshot.server_id == snapshot.server_id)
        )
        .tuples()
        .all()
    )
    if names := clones(session, {snapshot.id, *descendants(snapshot.id, parents)}):
        raise Conflict(
            f"Linked clones stand on snapshot '{snapshot.name}': {', '.join(names)}. Flatten them "
            "(`innkeeper server flatten`) or delete them first."
        )


def stand_alone(session: Session, server_id: UUID) -> None:
    """Note that a server's disk stands on its image only: its source is free of it."""
    for disk in session.scalars(select(Disk).where(Disk.server_id == server_id)):
        disk.base_snapshot_id = None


def let_go(session: Session, operation: Operation) -> None:
    """Release the source that an operation holds besides its own server, if it still does."""
    identifier = operation.request.get("source_id")
    source = session.get(Server, UUID(identifier)) if identifier else None
    if source is not None and source.operation_id == operation.id:
        source.operation_id, source.updated_at = None, now()


def forget_unborn(session: Session, operation: Operation, snapshot: Snapshot | None) -> None:
    """Forget the snapshot that a clone was to stand on, when it never came to be."""
    if snapshot is None or not snapshot.for_clones or snapshot.volume is not None:
        return
    stand_alone(session, operation.server_id)
    session.flush()
    session.delete(snapshot)


def is_needless() -> ColumnElement[bool]:
    """Return the condition for snapshots that were taken for clones and that none needs now."""
    needed = exists(select(Disk.id).where(Disk.base_snapshot_id == Snapshot.id))
    return Snapshot.for_clones & ~needed & or_(*(Snapshot.phase == p for p in ("ready", "failed")))
