"""Verifying snapshots: who may be verified now, what is due, and when a verification gives way.

The memory of a throw-away guest is reserved on its host as long as its operation is in flight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import Operation, Server, Snapshot, SnapshotPolicy, now
from innkeeper.db.session import transaction
from innkeeper.domain import maintenance
from innkeeper.domain.lifecycle import TRANSITIONS, Phase, Verb
from innkeeper.domain.retention import Cadence, period_start
from innkeeper.errors import Conflict
from innkeeper.services import events, policies, reservations
from innkeeper.settings import settings

ACTOR = "verification"
"""Who asks for what is due by a policy: its operations give way to everybody else's."""

AGAIN = timedelta(hours=6)
"""How long a snapshot that could not be verified is left alone."""

_DETAIL = 2048
_JUDGED = frozenset({"verified", "failed"})


class NoRoomToVerify(Conflict):
    """The host has no memory free for a throw-away guest, or boots as many as it may."""

    slug = "no-room-to-verify"
    title = "No room to verify"


class TooManyAtOnce(NoRoomToVerify):
    """The host boots as many throw-away guests as it may at once."""


class ServerBusy(Conflict):
    """Another operation holds the server: ask again when it has ended."""


class GivesWay(ServerBusy):
    """A verification that nobody waits for holds the server: it is cancelled, ask again."""

    def __init__(self, text: str, operation_id: UUID) -> None:
        super().__init__(text)
        self.operation_id = operation_id


@dataclass(frozen=True)
class Due:
    """A snapshot that its policy wants verified now."""

    server_id: UUID
    snapshot_id: UUID
    name: str


def prepare(session: Session, server: Server, snapshot: Snapshot) -> dict[str, Any]:
    """Reserve the memory of the guest that is to boot from a snapshot.

    Returns what the operation notes.

    Raises:
        Conflict: the snapshot is not ready.
        NoRoomToVerify: not now; nothing was reserved.
    """
    if snapshot.phase != "ready":
        raise Conflict(f"Snapshot '{snapshot.name}' is {snapshot.phase}, not ready.")
    # What its server is started with, before the balloon takes what it may still grow by: a guest
    # that boots by UEFI may need all of that (measured: 224 MiB, where 192 hang or crash).
    most = max(server.memory_mib, server.max_memory_mib or 0)
    memory = min(most, settings().verify_memory_mib)
    hosts = reservations.capacities(session, lock=True)
    host = next(host for host in hosts if host.host_id == server.host_id)
    if not host.reachable:
        raise NoRoomToVerify(f"{host.name} does not answer: see what is wrong there.")
    under_way = len(reservations.probes(session).get(host.host_id, ()))
    if under_way >= settings().verifications:
        raise TooManyAtOnce(
            f"{host.name} verifies {under_way} snapshots already, as many as it may at once "
            "(INNKEEPER_VERIFICATIONS): try again when one of them has ended."
        )
    if host.free.memory_mib < memory:
        raise NoRoomToVerify(
            f"{host.name} has {max(host.free.memory_mib, 0)} MiB of memory free, and a throw-away "
            f"guest for '{snapshot.name}' takes {memory} MiB: free some there, or lower "
            "INNKEEPER_VERIFY_MEMORY_MIB."
        )
    return {"snapshot_id": str(snapshot.id), "probe_mib": memory}


def settle(session: Session, operation: Operation, snapshot: Snapshot) -> None:
    """Say of a snapshot why its verification came to no end; a cancelled one says nothing."""
    if not operation.cancel_requested:
        reason = f"its verification failed: {operation.error or 'nobody knows why'}"
        write(session, snapshot, "not-verifiable", reason, None, operation)


def write(
    session: Session,
    snapshot: Snapshot,
    outcome: str,
    detail: str,
    seconds: float | None,
    operation: Operation | None = None,
) -> None:
    """Keep how a verification went, and tell it as an event."""
    before = {"verification": snapshot.verification, "detail": snapshot.verification_detail}
    snapshot.verification, snapshot.verification_detail = outcome, detail[:_DETAIL]
    snapshot.verification_seconds, snapshot.verified_at = seconds, now()
    kind = {"verified": "verified", "failed": "verification-failed"}.get(outcome, "not-verified")
    events.record(
        session,
        f"snapshot.{kind}",
        actor=operation.actor if operation else ACTOR,
        project_id=snapshot.project_id,
        server_id=snapshot.server_id,
        operation_id=operation.id if operation else None,
        reason=f"snapshot {snapshot.name}: {detail}"[:_DETAIL],
        before=before,
        after={"verification": outcome},
    )


def skip(snapshot_id: UUID, reason: str) -> None:
    """Keep why a snapshot that was due could not be verified now."""
    with transaction() as session:
        snapshot = session.get(Snapshot, snapshot_id, with_for_update=True)
        if snapshot is not None and snapshot.verification not in _JUDGED:
            write(session, snapshot, "not-verifiable", reason, None)


def due(instant: datetime | None = None) -> list[Due]:
    """Return what policies want verified now, one snapshot a server that is free.

    `newest`: the newest one, unless one of the server was looked at today (UTC). `all`: each,
    the newest first.
    """
    instant = instant or now()
    with transaction() as session:
        rows = session.scalars(select(SnapshotPolicy)).all()
        owners = {row.project_id for row in rows if row.verify != "none"}
        if not owners:
            return []
        servers = session.scalars(
            select(Server).where(
                Server.project_id.in_(owners),
                Server.status.in_(TRANSITIONS[Verb.VERIFY_SNAPSHOT].allowed),
                Server.operation_id.is_(None),
            )
        )
        found = (
            _due(session, policies.nearest(rows, server), server, instant) for server in servers
        )
        return [Due(row.server_id, row.id, row.name) for row in found if row is not None]


def _due(
    session: Session, policy: SnapshotPolicy | None, server: Server, instant: datetime
) -> Snapshot | None:
    if policy is None or not policy.enabled or policy.verify == "none":
        return None
    if policy.window is not None and not maintenance.parse(policy.window).open_at(instant):
        return None
    taken = session.scalars(
        select(Snapshot)
        .where(
            Snapshot.server_id == server.id,
            Snapshot.policy_id == policy.id,
            Snapshot.phase == "ready",
        )
        .order_by(Snapshot.created_at.desc())
    ).all()
    if policy.verify == "newest":
        today = period_start(Cadence.DAILY, instant)
        judged = [row.verified_at for row in taken if row.verification in _JUDGED]
        if any(at is not None and at >= today for at in judged):
            return None
        taken = taken[:1]
    return next((row for row in taken if _wanting(row, instant)), None)


def _wanting(snapshot: Snapshot, instant: datetime) -> bool:
    if snapshot.verification in _JUDGED:
        return False
    return snapshot.verified_at is None or instant - snapshot.verified_at >= AGAIN


def holder(session: Session, server: Server) -> Conflict:
    """Return the refusal of a verb on a server that another operation holds."""
    operation = session.get(Operation, server.operation_id)
    if (
        operation is not None
        and operation.verb == Verb.VERIFY_SNAPSHOT
        and operation.actor == ACTOR
    ):
        return GivesWay(
            f"Operation {operation.id} is verifying a snapshot of '{server.name}'. Nobody waits "
            "for that, so it is cancelled now: ask again in a few seconds.",
            operation.id,
        )
    return ServerBusy(
        f"Operation {server.operation_id} is at work on '{server.name}': wait for it or "
        "cancel it first."
    )


@contextmanager
def giving_way(*, dry_run: bool) -> Iterator[None]:
    """Cancel a verification that is in the way of what is asked in here; the refusal stays."""
    try:
        yield
    except GivesWay as refused:
        if not dry_run:
            _cancel(refused.operation_id)
        raise


def _cancel(operation_id: UUID) -> None:
    with transaction() as session:
        operation = session.get(Operation, operation_id, with_for_update=True)
        if operation is None or Phase(operation.phase).ended or operation.cancel_requested:
            return
        operation.cancel_requested = True
        events.record(
            session,
            "operation.cancel.requested",
            actor=ACTOR,
            project_id=operation.project_id,
            server_id=operation.server_id,
            operation_id=operation.id,
            reason="its server was wanted for something else",
        )
