"""Resizes that wait for a power cycle: shown, cancelled, and carried out at the first chance.

That is when the maintenance window opens, or when somebody starts or reboots the server: the
resize then is the start, or the reboot, so the guest is interrupted once.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Operation, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain import maintenance
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.pending import CONDITION, PendingResizeRequest
from innkeeper.domain.resizing import Shape
from innkeeper.domain.specs import RebootRequest
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import events, journal, resizing
from innkeeper.services.conditions import ChangeView, ConditionView, PendingResizeView

WINDOW = "maintenance-window"
"""Who asks for a resize that waited until the window opened."""


def instead(
    session: Session, server: Server, verb: Verb, body: BaseModel
) -> tuple[Verb, BaseModel]:
    """Return what is to be done for a verb that was asked for: starts and reboots do what waits.

    The caller holds the server's lock. What snapshots have come in the way of goes on waiting.

    Raises:
        Conflict: what waited was to be carried out, and nothing waits any more.
    """
    pending = server.pending
    if pending is None:
        if isinstance(body, PendingResizeRequest):
            raise Conflict(f"No resize of '{server.name}' waits any more.")
        return verb, body
    if isinstance(body, PendingResizeRequest):
        return verb, _filled(pending, body)
    runs = {Verb.REBOOT: Status.ACTIVE, Verb.START: Status.STOPPED}.get(verb)
    if runs is None or server.status != runs or _obstacle(session, server, pending):
        return verb, body
    hard = isinstance(body, RebootRequest) and body.mode == "hard"
    how = PendingResizeRequest(
        allow_power_cycle=True,
        ends=Status.ACTIVE if verb is Verb.START else None,
        cycle=verb is Verb.REBOOT,
        hard=hard,
    )
    return Verb.RESIZE, _filled(pending, how)


def _filled(pending: dict[str, Any], how: PendingResizeRequest) -> PendingResizeRequest:
    after = Shape(**pending["after"])
    return how.model_copy(
        update={
            "vcpus": after.vcpus,
            "memory_mib": after.memory_mib,
            "disk_gib": after.disk_gib,
            "fine": after.cpu,
            "backing": after.memory,
            "plan_id": pending["plan_id"],
            "expand": pending["expand"],
        }
    )


def _obstacle(session: Session, server: Server, pending: dict[str, Any]) -> str | None:
    """Say what has come in the way of a resize since it was accepted."""
    try:
        resizing.refuse_under_memory(session, server, resizing.way_of(pending))
    except Conflict as refused:
        return str(refused)
    return None


def settle(session: Session, server: Server, operation: Operation) -> Operation:
    """End the operation of a resize that waits: it is kept with the server, which is free again."""
    if not operation.request.get("deferred"):
        return operation
    session.refresh(server)
    resizing.keep_pending(server, operation)
    server.operation_id = None
    operation.phase, operation.ended_at = Phase.SUCCEEDED, now()
    events.record(
        session,
        "server.resize.waits",
        actor=operation.actor,
        project_id=server.project_id,
        server_id=server.id,
        operation_id=operation.id,
        reason=f"{CONDITION}: {_why(operation.request['obstacles'])}",
        before=operation.request["before"],
        after=operation.request["after"],
    )
    session.flush()
    return operation


def _why(obstacles: dict[str, str]) -> str:
    return "; ".join(f"{subject}: {reason}" for subject, reason in obstacles.items())


def conditions(server: Server) -> list[ConditionView]:
    """Return what stands out of a server's state: that a resize waits, that more is wanted."""
    if server.status in {Status.DELETED, Status.ERROR}:
        return []
    return [*_waiting(server), *_wanted(server)]


def _wanted(server: Server) -> list[ConditionView]:
    if server.wanted is None:
        return []
    return [
        ConditionView(
            type="ResourcesPending",
            since=datetime.fromisoformat(server.wanted["since"]),
            message="It does not have all wanted resources yet: one operation follows another.",
        )
    ]


def _waiting(server: Server) -> list[ConditionView]:
    if server.pending is None:
        return []
    waits_for = "a start or a reboot that somebody asks for"
    if server.maintenance_window:
        waits_for = f"its maintenance window ({server.maintenance_window}), or {waits_for}"
    why = _why(server.pending["obstacles"])
    refused = server.pending.get("refused")
    return [
        ConditionView(
            type=CONDITION,
            since=datetime.fromisoformat(server.pending["since"]),
            message=f"A resize waits for {waits_for} ({why})."
            + (f" When it was to be carried out it was refused: {refused}" if refused else ""),
        )
    ]


def shown(server: Server) -> PendingResizeView | None:
    """Return the resize that waits as people see it."""
    if server.pending is None or server.status in {Status.DELETED, Status.ERROR}:
        return None
    way = resizing.way_of(server.pending)
    return PendingResizeView(
        operation_id=UUID(server.pending["operation_id"]),
        asked_by=server.pending["actor"],
        since=datetime.fromisoformat(server.pending["since"]),
        vcpus=way.after.vcpus,
        memory_mib=way.after.memory_mib,
        disk_gib=way.after.disk_gib,
        changes=[ChangeView.model_validate(change) for change in way.changes],
        reasons=way.obstacles,
    )


def cancel(server_id: UUID, *, project_id: UUID | None, actor: str) -> None:
    """Forget the resize that waits, and give back what is held for it.

    Raises:
        NotFound: no such server in the project, or nothing waits.
    """
    with transaction() as session:
        server = session.get(Server, server_id, with_for_update=True)
        if server is None or (project_id is not None and server.project_id != project_id):
            raise NotFound("There is no such server: see `innkeeper server list`.")
        found = resizing.let_go(server).pending
        if found is None:
            raise NotFound(
                f"No resize of '{server.name}' waits: one that is at work is cancelled with "
                "`innkeeper operation cancel`."
            )
        events.record(
            session,
            "server.resize.forgotten",
            actor=actor,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=UUID(found["operation_id"]),
            before=found["after"],
            after=found["before"],
        )


def due() -> list[UUID]:
    """Return the servers whose resize waits, and whose maintenance window is open."""
    with transaction() as session:
        rows = session.scalars(
            select(Server).where(
                Server.pending.is_not(None),
                Server.maintenance_window.is_not(None),
                Server.operation_id.is_(None),
                Server.status.in_((Status.ACTIVE, Status.STOPPED)),
            )
        )
        instant = now()
        return [
            row.id
            for row in rows
            if row.maintenance_window
            and row.pending
            and maintenance.parse(row.maintenance_window).open_at(instant)
            and not _obstacle(session, row, row.pending)
        ]


def tell_refused(server_id: UUID, reason: str) -> None:
    """Note why a resize that waits was not carried out; an event tells each reason once.

    It goes on waiting, and is tried again: what is in its way may go.
    """
    with transaction() as session:
        server = session.get(Server, server_id, with_for_update=True)
        if server is None or not server.pending or server.pending.get("refused") == reason:
            return
        server.pending = server.pending | {"refused": reason}
        events.record(
            session,
            "server.resize.refused",
            actor=WINDOW,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=UUID(server.pending["operation_id"]),
            reason=reason,
            before=server.pending["before"],
            after=server.pending["after"],
        )


def wait_again(held: Claim) -> bool:
    """Note that a resize came too late for the window, before it did anything: it goes on waiting.

    Tells whether it does: one that never waited does not.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        if not operation.request.get("pending"):
            return False
        operation.request = operation.request | {resizing.WAITS_AGAIN: True}
        return True
