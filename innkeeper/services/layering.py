"""What verbs mean for a server's snapshots, inside the transaction that accepts or ends them."""

from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import Disk, Operation, OperationStep, Project, Server, Snapshot, now
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.quotas import SnapshotAmounts, require_within
from innkeeper.domain.specs import (
    DeleteSnapshotRequest,
    PolicySnapshotRequest,
    RevertRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits, NotFound
from innkeeper.services import lineage, reservations, verifying

_MIB, _GIB = 1 << 20, 1 << 30


def held(session: Session, project_id: UUID) -> SnapshotAmounts:
    """Return how many snapshots a project holds, and their size in GiB, rounded up."""
    count, size = session.execute(
        select(func.count(Snapshot.id), func.coalesce(func.sum(Snapshot.size_bytes), 0)).where(
            Snapshot.project_id == project_id, reservations.takes_room()
        )
    ).one()
    return SnapshotAmounts(int(count), -(-int(size) // _GIB))


def lock_quota(session: Session, server_id: UUID) -> None:
    """Take the lock of the project before that of its server: everybody locks in this order."""
    owner = select(Server.project_id).where(Server.id == server_id).scalar_subquery()
    session.execute(
        select(Project.id).where(Project.id == owner).with_for_update(of=Project, key_share=True)
    )


def find(session: Session, server: Server, name_or_id: str) -> Snapshot:
    """Return the snapshot of a server with this id or name, one that is not failed first.

    Raises:
        NotFound: the server has none.
    """
    rows = session.scalars(
        select(Snapshot).where(Snapshot.server_id == server.id).order_by(Snapshot.created_at.desc())
    ).all()
    named = [row for row in rows if name_or_id in {str(row.id), row.name}]
    for row in sorted(named, key=lambda row: row.phase == "failed"):
        return row
    raise NotFound(
        f"'{server.name}' has no snapshot '{name_or_id}': see `innkeeper snapshot list "
        f"{server.name}`."
    )


def prepare(session: Session, server: Server, body: BaseModel, verb: Verb) -> dict[str, Any]:
    """Check a verb against the server's snapshots, reserve, and return what its operation notes.

    Raises:
        QuotaExceeded, Conflict, NotFound, InvalidRequest: nothing was reserved.
    """
    lineage.require_no_clones(session, server, verb)
    if isinstance(body, SnapshotRequest):
        return {"snapshot_id": str(reserve(session, server, body).id)}
    if isinstance(body, RevertRequest):
        return _revert(find(session, server, body.snapshot))
    if isinstance(body, DeleteSnapshotRequest):
        return _deletion(session, find(session, server, body.snapshot))
    if isinstance(body, VerifySnapshotRequest):
        return verifying.prepare(session, server, find(session, server, body.snapshot))
    if verb in {Verb.REBUILD, Verb.DELETE}:
        _refuse_under(session, server, verb)
    if verb is Verb.FLATTEN:
        _require_flattenable(session, server)
    return {}


def reserve(session: Session, server: Server, body: SnapshotRequest) -> Snapshot:
    """Reserve a snapshot's name and its share of quota and host.

    The caller holds the project's lock.

    Raises:
        QuotaExceeded, NoHostFits, Conflict, InvalidRequest: nothing was reserved.
    """
    if body.memory and server.status == Status.STOPPED:
        raise InvalidRequest(
            f"'{server.name}' is stopped and has no memory to keep: start it, or leave memory out."
        )
    if body.memory and server.status == Status.SUSPENDED:
        raise InvalidRequest(
            f"'{server.name}' is suspended, and QEMU cannot keep the memory of a guest that stands "
            "still: resume it first, or leave memory out."
        )
    if body.quiesce == "required" and server.status == Status.SUSPENDED:
        raise InvalidRequest(
            f"'{server.name}' is suspended, nobody in it can quiesce its file systems: resume it, "
            "or ask with quiesce 'auto'."
        )
    memory = server.memory_mib * _MIB if body.memory else 0
    size = server.disk_gib * _GIB + memory  # at most; what it really takes is known afterwards
    quota = session.get_one(Project, server.project_id).quota
    require_within(
        SnapshotAmounts(quota.snapshots, quota.snapshot_gib),
        held(session, server.project_id),
        SnapshotAmounts(1, -(-size // _GIB)),
    )
    _require_room(session, server, -(-size // _GIB))
    taken = f"'{server.name}' has a snapshot '{body.name}' already: choose another name."
    snapshot = Snapshot(
        server_id=server.id,
        project_id=server.project_id,
        name=body.name or f"snapshot-{now():%Y%m%d-%H%M%S-%f}",
        description=body.description,
        memory=body.memory,
        size_bytes=size,
        enabled=body.enabled,
        max_age_seconds=body.max_age,
        delete_on_server_delete=body.delete_on_server_delete,
        policy_id=body.policy_id if isinstance(body, PolicySnapshotRequest) else None,
    )
    session.add(snapshot)
    try:
        session.flush()
    except IntegrityError as error:
        raise Conflict(taken) from error
    return snapshot


def _require_room(session: Session, server: Server, gib: int) -> None:
    """See that the host can give so many GiB for what is frozen.

    What the server writes to afterwards may become as large as its disk, as what it writes to now.
    """
    capacities = reservations.capacities(session, lock=True)
    host = next(one for one in capacities if one.host_id == server.host_id)
    if gib > host.free.disk_gib:
        raise NoHostFits(
            f"Host {host.name} cannot give this (a snapshot of '{server.name}' may take {gib} GiB "
            f"of disk, {max(host.free.disk_gib, 0)} free): delete snapshots, disks or servers "
            f"there, or migrate '{server.name}' (`innkeeper server migrate {server.name}`)."
        )


def _revert(snapshot: Snapshot) -> dict[str, Any]:
    if snapshot.phase != "ready":
        raise Conflict(f"Snapshot '{snapshot.name}' is {snapshot.phase}, not ready.")
    if not snapshot.enabled:
        raise Conflict(
            f"Snapshot '{snapshot.name}' is not enabled: `innkeeper snapshot set` enables it."
        )
    ends = {"ends": Status.ACTIVE} if snapshot.memory else {}
    return {"snapshot_id": str(snapshot.id), **ends}


def _deletion(session: Session, snapshot: Snapshot) -> dict[str, Any]:
    if snapshot.phase not in {"ready", "failed"}:
        raise Conflict(f"Snapshot '{snapshot.name}' is {snapshot.phase}: wait for that to end.")
    lineage.require_unused(session, snapshot)
    snapshot.phase = "deleting"
    return {
        "snapshot_id": str(snapshot.id),
        reservations.MERGE_BYTES: _growth(session, snapshot),
    }


def _growth(session: Session, snapshot: Snapshot) -> int:
    """Return the bytes that frozen files may grow by when a snapshot is merged away.

    Each one that leans on it takes over what it needs of it; or what one of them has goes down
    into it. That is held, but never refused: who deletes wants to make room.
    """
    children = session.scalars(
        select(Snapshot.size_bytes).where(Snapshot.parent_id == snapshot.id)
    ).all()
    return sum(max(size, snapshot.size_bytes) for size in children)


def _refuse_under(session: Session, server: Server, verb: Verb) -> None:
    """Refuse what would pull the ground from under snapshots that are to stay."""
    wanted = select(Snapshot.name).where(
        Snapshot.server_id == server.id, Snapshot.volume.is_not(None)
    )
    if verb is Verb.DELETE:
        wanted = wanted.where(Snapshot.delete_on_server_delete.is_(False))
    names = session.scalars(wanted.order_by(Snapshot.created_at)).all()
    if names:
        back = f"Unshelve it first (`innkeeper server unshelve {server.name}`). "
        raise Conflict(
            f"'{server.name}' cannot {verb}, it has snapshots that are to stay: "
            f"{', '.join(names)}. {'' if server.placed else back}Delete them first (`innkeeper "
            "snapshot delete`)."
        )


def _require_flattenable(session: Session, server: Server) -> None:
    disk = session.scalars(select(Disk).where(Disk.server_id == server.id)).one()
    if disk.base_snapshot_id is None:
        raise Conflict(f"'{server.name}' is no linked clone: its disk stands on its image only.")
    names = session.scalars(
        select(Snapshot.name)
        .where(Snapshot.server_id == server.id, Snapshot.volume.is_not(None))
        .order_by(Snapshot.created_at)
    ).all()
    if names:
        raise Conflict(
            f"'{server.name}' cannot flatten, it has snapshots that stand on its source, too: "
            f"{', '.join(names)}. Delete them first (`innkeeper snapshot delete`)."
        )


def settle(session: Session, operation: Operation) -> None:
    """Say of the snapshot of an operation that was undone what became of it."""
    identifier = operation.request.get("snapshot_id")
    snapshot = session.get(Snapshot, UUID(identifier)) if identifier else None
    if operation.verb == Verb.CLONE:
        lineage.forget_unborn(session, operation, snapshot)
        return
    if snapshot is None or operation.verb == Verb.REVERT:
        return
    if operation.verb == Verb.SNAPSHOT and snapshot.volume is None:
        snapshot.phase, snapshot.size_bytes, snapshot.fault = "failed", 0, operation.error
    elif operation.verb == Verb.DELETE_SNAPSHOT:
        snapshot.fault = operation.error
        merge = session.get(OperationStep, (operation.id, "merge"))
        spoiled = snapshot.volume is None or bool(merge and merge.data.get("commits"))
        snapshot.phase = "failed" if spoiled else "ready"
    elif operation.verb == Verb.VERIFY_SNAPSHOT:
        verifying.settle(session, operation, snapshot)
