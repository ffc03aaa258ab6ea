"""Snapshot policies: kept, and worked out into what is to be taken and deleted now."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import (
    DataDisk,
    Nic,
    Operation,
    Plan,
    Server,
    Snapshot,
    SnapshotPolicy,
    now,
)
from innkeeper.db.session import transaction
from innkeeper.domain import maintenance
from innkeeper.domain.lifecycle import TRANSITIONS, Phase, Status, Verb
from innkeeper.domain.retention import Schedule, stagger
from innkeeper.domain.specs import PolicySnapshotRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import events
from innkeeper.services.archive import is_current
from innkeeper.services.views import SnapshotPolicyView

RETRY_SECONDS = 900.0
"""How long a policy waits after a snapshot that failed."""

STUCK = timedelta(hours=6)
"""How long a policy lets a snapshot alone whose deletion failed."""

FAILED_KEPT = timedelta(days=1)
"""How long a policy's failed snapshot stays to be looked at."""

TAKEN = "This project has a policy of that name, or for that server, plan or project: change it."
_NEAREST_FIRST = ("server", "plan", "project")


@dataclass(frozen=True)
class Wish:
    """What the policies want of one server now."""

    server_id: UUID
    project_id: UUID
    take: PolicySnapshotRequest | None
    drop: tuple[UUID, ...]


def create(
    name: str,
    schedule: str,
    *,
    project_id: UUID,
    server: UUID | None = None,
    plan: str | None = None,
    window: str | None = None,
    actor: str = "system",
    **options: Any,
) -> SnapshotPolicyView:
    """Create a policy for a server, for the project's servers of a plan, or for all of them.

    Args:
        name: unique in the project.
        schedule: such as "hourly:24,daily:7,weekly:4,monthly:6".
        project_id: whose policy it is.
        server: the server it is for.
        plan: the plan whose servers it is for; without both it is for the whole project.
        window: when snapshots are taken, in UTC, such as "daily 22:00-05:30".
        actor: who asks.
        options: `stagger_minutes`, `memory`, `quiesce`, `verify`, `enabled`.

    Raises:
        InvalidRequest: the schedule or the window is none.
        NotFound: there is no such server or plan.
        Conflict: the project has a policy of that name, or for that subject.
    """
    fields = _checked({"schedule": schedule, "window": window} | options)
    try:
        with transaction() as session:
            scope, subject_id = _subject(session, project_id, server, plan)
            policy = SnapshotPolicy(
                project_id=project_id, name=name, scope=scope, subject_id=subject_id, **fields
            )
            session.add(policy)
            session.flush()
            seen = SnapshotPolicyView.model_validate(policy)
            _record(session, "created", policy, actor, after=seen.model_dump(mode="json"))
            return seen
    except IntegrityError as error:
        raise Conflict(TAKEN) from error


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with the schedule as we write it; the window is checked, too."""
    if "schedule" in fields:
        fields["schedule"] = str(Schedule.parse(fields["schedule"]))
    if fields.get("window") is not None:
        try:
            maintenance.check(fields["window"])
        except ValueError as error:
            raise InvalidRequest(f"'{fields['window']}' is no window: {error}.") from error
    return fields


def _subject(
    session: Session, project_id: UUID, server: UUID | None, plan: str | None
) -> tuple[str, UUID]:
    if server is not None:
        row = session.get(Server, server)
        if row is None or row.project_id != project_id or row.status == Status.DELETED:
            raise NotFound("There is no such server: see `innkeeper server list`.")
        return "server", row.id
    if plan is not None:
        wanted = select(Plan.id).where(Plan.name == plan, is_current(Plan.name))
        if (plan_id := session.scalar(wanted)) is None:
            raise NotFound(f"There is no plan '{plan}': see `innkeeper plan list`.")
        return "plan", plan_id
    return "project", project_id


def all(project_id: UUID | None = None) -> list[SnapshotPolicyView]:  # noqa: A001 - policies.all()
    """Return the policies of a project (None: of all), by name."""
    wanted = select(SnapshotPolicy).order_by(SnapshotPolicy.name, SnapshotPolicy.id)
    if project_id is not None:
        wanted = wanted.where(SnapshotPolicy.project_id == project_id)
    with transaction() as session:
        return [SnapshotPolicyView.model_validate(row) for row in session.scalars(wanted)]


def get(policy_id: UUID, project_id: UUID | None = None) -> SnapshotPolicyView:
    """Return a policy of the project (None: of any), or raise NotFound."""
    with transaction() as session:
        return SnapshotPolicyView.model_validate(_found(session, policy_id, project_id))


def _found(session: Session, policy_id: UUID, project_id: UUID | None) -> SnapshotPolicy:
    policy = session.get(SnapshotPolicy, policy_id, with_for_update=True)
    if policy is None or project_id not in {None, policy.project_id}:
        raise NotFound("There is no such policy: see `innkeeper snapshot-policy list`.")
    return policy


def change(
    policy_id: UUID, fields: dict[str, Any], *, project_id: UUID | None, actor: str
) -> SnapshotPolicyView:
    """Change a policy; snapshots that no longer stay are deleted when it is applied next.

    Raises:
        NotFound: no such policy in the project.
        InvalidRequest: the schedule or the window is none.
        Conflict: the name is taken.
    """
    asked = _checked(dict(fields))
    try:
        with transaction() as session:
            policy = _found(session, policy_id, project_id)
            before = {name: getattr(policy, name) for name in asked}
            for name, value in asked.items():
                setattr(policy, name, value)
            session.flush()
            if asked != before:
                _record(session, "changed", policy, actor, before=before, after=asked)
            return SnapshotPolicyView.model_validate(policy)
    except IntegrityError as error:
        raise Conflict(TAKEN) from error


def remove(policy_id: UUID, *, project_id: UUID | None, actor: str) -> None:
    """Remove a policy; what it took stays, until somebody deletes it.

    Raises:
        NotFound: no such policy in the project.
    """
    with transaction() as session:
        policy = _found(session, policy_id, project_id)
        seen = SnapshotPolicyView.model_validate(policy).model_dump(mode="json")
        session.execute(
            update(Snapshot).where(Snapshot.policy_id == policy_id).values(policy_id=None)
        )
        session.execute(delete(SnapshotPolicy).where(SnapshotPolicy.id == policy_id))
        _record(session, "removed", policy, actor, before=seen)


def _record(
    session: Session,
    what: str,
    policy: SnapshotPolicy,
    actor: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    events.record(
        session,
        f"snapshot-policy.{what}",
        actor=actor,
        project_id=policy.project_id,
        server_id=policy.subject_id if policy.scope == "server" else None,
        reason=f"policy {policy.name}",
        before=before,
        after=after,
    )


def wishes(instant: datetime | None = None) -> list[Wish]:
    """Return what the policies want now, of each server that is free to do it."""
    instant = instant or now()
    with transaction() as session:
        policies = session.scalars(select(SnapshotPolicy)).all()
        if not policies:
            return []
        owners = {policy.project_id for policy in policies}
        servers = session.scalars(
            select(Server).where(
                Server.project_id.in_(owners),
                # Of suspended ones none could be deleted again, and nothing changes on their disks.
                Server.status.in_(TRANSITIONS[Verb.DELETE_SNAPSHOT].allowed),
                Server.operation_id.is_(None),
            )
        ).all()
        taken: dict[UUID, list[Snapshot]] = {}
        for row in session.scalars(select(Snapshot).where(Snapshot.policy_id.is_not(None))):
            taken.setdefault(row.server_id, []).append(row)
        stuck = _stuck(session, instant)
        attached = select(DataDisk.server_id).where(DataDisk.server_id.is_not(None))
        plugged = set(session.scalars(attached))
        plugged |= set(session.scalars(select(Nic.server_id).where(Nic.position > 0)))
        wanted = []
        for server in servers:
            policy = nearest(policies, server)
            if policy is None or not policy.enabled:
                continue
            own = [row for row in taken.get(server.id, []) if row.policy_id == policy.id]
            own = [row for row in own if str(row.id) not in stuck]
            # No memory fits what is written to data disks later, nor other cards than it knows.
            memory = server.status == Status.ACTIVE and server.id not in plugged
            wish = _wish(policy, server, own, instant, memory=policy.memory and memory)
            if wish.take or wish.drop:
                wanted.append(wish)
        return wanted


def _stuck(session: Session, instant: datetime) -> set[str]:
    """Return the snapshots whose deletion failed a short while ago: others have their turn."""
    failed = session.scalars(
        select(Operation.request).where(
            Operation.verb == Verb.DELETE_SNAPSHOT,
            Operation.phase == Phase.FAILED,
            Operation.ended_at > instant - STUCK,
        )
    )
    return {request.get("snapshot_id", "") for request in failed}


def nearest(policies: Iterable[SnapshotPolicy], server: Server) -> SnapshotPolicy | None:
    """Return the policy that counts for a server: its own, its plan's, its project's."""
    subjects = dict(
        zip(_NEAREST_FIRST, (server.id, server.plan_id, server.project_id), strict=True)
    )
    mine = {
        policy.scope: policy
        for policy in policies
        if policy.project_id == server.project_id and policy.subject_id == subjects[policy.scope]
    }
    return next((mine[scope] for scope in _NEAREST_FIRST if scope in mine), None)


def _wish(
    policy: SnapshotPolicy,
    server: Server,
    taken: list[Snapshot],
    instant: datetime,
    *,
    memory: bool,
) -> Wish:
    schedule = Schedule.parse(policy.schedule)
    good = {row.created_at: row for row in taken if row.phase in {"creating", "ready"}}
    delay = stagger(server.id, timedelta(minutes=policy.stagger_minutes))
    due = schedule.is_due(good, instant, delay)
    if policy.window is not None and not maintenance.parse(policy.window).open_at(instant):
        due = False
    latest = max((row.created_at for row in taken), default=None)
    if latest is not None and (instant - latest).total_seconds() < RETRY_SECONDS:
        due = due and latest in good
    stays = schedule.stays(good)
    drop = [row for at, row in sorted(good.items()) if at not in stays and row.phase == "ready"]
    drop += [r for r in taken if r.phase == "failed" and instant - r.created_at > FAILED_KEPT]
    request = PolicySnapshotRequest(
        policy_id=policy.id,
        name=f"{policy.name[:40]}-{instant:%Y%m%d-%H%M%S}",
        memory=memory,
        quiesce=policy.quiesce,  # type: ignore[arg-type]  # checked when it was written
    )
    return Wish(
        server.id, server.project_id, request if due else None, tuple(row.id for row in drop)
    )


def forget(session: Session, server_id: UUID) -> None:
    """Remove a deleted server's own policy."""
    session.execute(
        delete(SnapshotPolicy).where(
            SnapshotPolicy.scope == "server", SnapshotPolicy.subject_id == server_id
        )
    )
