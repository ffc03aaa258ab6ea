"""The journal of operations: claim, intent, steps, end. Every write is fenced by the attempt.

Who is killed between two lines of a flow left here what was begun; the next attempt, or the undo,
starts from that.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import (
    Operation,
    OperationStep,
    PortForward,
    Server,
    now,
)
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import (
    BIRTHS,
    IRREVOCABLE,
    TRANSITIONS,
    Phase,
    Status,
    Verb,
    ending,
)
from innkeeper.domain.steps import STEPS, ArtifactKind
from innkeeper.errors import ClaimLost, Conflict, NotFound, OperationCancelled
from innkeeper.services import (
    artifacts,
    attachments,
    binding,
    cards,
    drafting,
    events,
    layering,
    lineage,
    pools,
    remains,
    reservations,
    resizing,
)
from innkeeper.services.blueprint import Blueprint

Made = Callable[[Blueprint], Sequence[tuple[ArtifactKind, str]]]
DETAIL_LIMIT = 2000
COMMITTED = "committed"  # in an operation's request: there is no way back any more


def _text(text: str) -> str:
    """Return what the columns can hold; PostgreSQL knows no NUL."""
    return text.replace("\x00", "")[:DETAIL_LIMIT]


class BegunStep(NamedTuple):
    """A step that may have had an effect."""

    name: str
    state: str


def claim(operation_id: UUID, flow_run_id: UUID | None = None) -> Claim:
    """Take a queued operation under a new attempt; no two runs can.

    Raises:
        NotFound: no such operation.
        ClaimLost: another run has it, or it has ended.
    """
    with transaction() as session:
        taken = session.execute(
            update(Operation)
            .where(Operation.id == operation_id, Operation.phase == Phase.QUEUED)
            .values(
                phase=Phase.RUNNING,
                attempt=Operation.attempt + 1,
                flow_run_id=flow_run_id,
                heartbeat_at=now(),
                started_at=func.coalesce(Operation.started_at, now()),
            )
        )
        operation = session.get(Operation, operation_id, populate_existing=True)
        if operation is None:
            raise NotFound(f"There is no operation {operation_id}.")
        if taken.rowcount != 1:  # type: ignore[attr-defined]
            raise ClaimLost(f"Operation {operation_id} is {operation.phase}: another run has it.")
        verb = Verb(operation.verb)
        during = TRANSITIONS[verb].during
        if during is not None:
            session.execute(
                update(Server)
                .where(Server.id == operation.server_id)
                .values(status=during, updated_at=now())
            )
        return Claim(
            operation_id=operation.id,
            server_id=operation.server_id,
            verb=verb,
            attempt=operation.attempt,
            undoing=operation.undoing,
            actor=operation.actor,
        )


def hold(session: Session, held: Claim) -> Operation:
    """Lock the operation and renew its heartbeat, or raise ClaimLost when the claim is stale."""
    operation = session.scalar(
        update(Operation)
        .where(
            Operation.id == held.operation_id,
            Operation.attempt == held.attempt,
            Operation.phase == Phase.RUNNING,
        )
        .values(heartbeat_at=now())
        .returning(Operation),
        execution_options={"populate_existing": True},
    )
    if operation is None:
        raise ClaimLost(
            f"Attempt {held.attempt} of operation {held.operation_id} was taken over: it ends."
        )
    return operation


def heartbeat(held: Claim) -> None:
    """Tell that the run is alive; raise ClaimLost when it was taken over."""
    with transaction() as session:
        hold(session, held)


def begin(held: Claim, step: str, *, makes: Made | None = None, undo: bool = False) -> Blueprint:
    """Journal that a step starts and what it will make; return what it needs to know.

    Raises:
        ClaimLost: this attempt is not the current one any more.
        OperationCancelled: somebody asked for a cancel (never while undoing or deleting).
    """
    with transaction() as session:
        operation = hold(session, held)
        if operation.cancel_requested and not undo and _revocable(operation):
            raise OperationCancelled(f"Cancelled before step '{step}' on request.")
        return _begin(session, operation, step, makes, undo=undo)


def _begin(
    session: Session, operation: Operation, step: str, makes: Made | None, *, undo: bool = False
) -> Blueprint:
    row = session.get(OperationStep, (operation.id, step))
    was_done = row is not None and row.state == "done"
    if row is None:
        row = OperationStep(
            operation_id=operation.id,
            name=step,
            ordinal=STEPS[Verb(operation.verb)].index(step),
            attempt=operation.attempt,
        )
        session.add(row)
    else:
        row.tries += 1
        row.attempt = operation.attempt
    row.state, row.detail, row.ended_at = ("undoing" if undo else "begun"), None, None
    session.flush()
    subject = lineage.subject_of(operation, step)
    side = drafting.side_of(operation, step)
    plan = drafting.load(session, operation.id, row, done=was_done, subject=subject, side=side)
    for kind, name in makes(plan) if makes and not undo else ():
        artifacts.intend(session, plan, kind, name)
    return plan


def _revocable(operation: Operation) -> bool:
    return operation.verb not in IRREVOCABLE and not operation.request.get(COMMITTED)


def commit(held: Claim) -> None:
    """Pass the point of no return: the operation is neither cancelled nor undone from here on.

    Should it fail, it ends where it wanted to; reconcile reaps what it did not get to remove.
    """
    with transaction() as session:
        operation = hold(session, held)
        operation.request = operation.request | {COMMITTED: True}


def end(
    held: Claim,
    step: str,
    *,
    detail: str | None = None,
    made: Sequence[tuple[ArtifactKind, str]] = (),
    removed: Sequence[tuple[ArtifactKind, str]] = (),
    undo: bool = False,
) -> None:
    """Journal that a step is done: its artifacts are present, or their rows are closed."""
    with transaction() as session:
        operation = hold(session, held)
        _end_step(session, operation, step, detail, made, removed, undo=undo)


def advance(
    held: Claim,
    step: str,
    following: str,
    *,
    detail: str | None = None,
    made: Sequence[tuple[ArtifactKind, str]] = (),
    removed: Sequence[tuple[ArtifactKind, str]] = (),
    makes: Made | None = None,
) -> Blueprint | None:
    """Journal in one transaction that a step is done and that the next one starts.

    None: somebody asked for a cancel, so the next was not begun; `begin` raises that.
    """
    with transaction() as session:
        operation = hold(session, held)
        _end_step(session, operation, step, detail, made, removed)
        if operation.cancel_requested and _revocable(operation):
            return None
        return _begin(session, operation, following, makes)


def _end_step(
    session: Session,
    operation: Operation,
    step: str,
    detail: str | None,
    made: Sequence[tuple[ArtifactKind, str]],
    removed: Sequence[tuple[ArtifactKind, str]],
    *,
    undo: bool = False,
) -> None:
    row = session.get_one(OperationStep, (operation.id, step))
    row.state = "undone" if undo else "done"
    row.ended_at, row.detail, row.progress = now(), _text(detail or "") or None, None
    if made or removed:
        server = session.get_one(Server, operation.server_id)
        host_id = drafting.side_of(operation, step) or server.host_id
        artifacts.close(session, host_id, made, removed)


def fail(held: Claim, step: str, error: str) -> None:
    """Journal why a try of a step failed."""
    with transaction() as session:
        hold(session, held)
        row = session.get(OperationStep, (held.operation_id, step))
        if row is not None:
            row.state, row.detail, row.ended_at = "failed", _text(error), now()


def note(held: Claim, step: str, **data: Any) -> None:
    """Commit facts that a resumed step will need, before the effect that makes them history."""
    with transaction() as session:
        hold(session, held)
        row = session.get_one(OperationStep, (held.operation_id, step))
        row.data = row.data | data


def noted(held: Claim, step: str) -> dict[str, Any]:
    """Return what another step of the operation noted; nothing when it did not."""
    with transaction() as session:
        row = session.get(OperationStep, (held.operation_id, step))
        return dict(row.data) if row else {}


def progress(held: Claim, step: str, fraction: float | None, detail: str | None = None) -> None:
    """Show how far a long step is (0 to 1)."""
    with transaction() as session:
        hold(session, held)
        session.execute(
            update(OperationStep)
            .where(OperationStep.operation_id == held.operation_id, OperationStep.name == step)
            .values(progress=fraction, detail=_text(detail or "") or None)
        )


def cancelled(held: Claim) -> bool:
    """Tell whether somebody asked for a cancel: steps that wait for long look now and then."""
    with transaction() as session:
        operation = session.get_one(Operation, held.operation_id)
        return operation.cancel_requested and _revocable(operation)


def undoing(held: Claim, error: str) -> list[BegunStep]:
    """Commit that the operation will be undone and why; return its begun steps, last first.

    From here on every attempt of the operation undoes; the first error is the one that is kept.
    """
    with transaction() as session:
        operation = hold(session, held)
        operation.undoing = True
        operation.error = operation.error or _text(error)
        if operation.request.get(COMMITTED):
            return []
        rows = session.scalars(
            select(OperationStep)
            .where(OperationStep.operation_id == held.operation_id)
            .order_by(OperationStep.ordinal.desc())
        )
        return [BegunStep(row.name, row.state) for row in rows]


def complete(held: Claim, reason: str = "") -> None:
    """End an operation as succeeded and put its server to rest.

    Raises:
        Conflict: a deletion left artifacts behind; the rows tell which.
    """
    with transaction() as session:
        operation = hold(session, held)
        server = session.get_one(Server, operation.server_id)
        before = server.status
        named = operation.request.get("ends")
        after = ending(held.verb, Status(before), Status(named) if named else None)
        if after is Status.DELETED:
            if remains.has_artifacts(session, server.id):
                raise Conflict(f"Server '{server.name}' still has artifacts: reconcile reaps them.")
            remains.release(session, server)
            server.deleted_at = now()
        server.status, server.fault = after, None
        if held.verb is Verb.CONFIGURE:
            _keep_roles(server, operation)
        if held.verb is Verb.CLONE and operation.request["mode"] == "full":
            lineage.stand_alone(session, server.id)
        _end(session, operation, server, Phase.SUCCEEDED)
        _record(session, operation, server, f"server.{held.verb}.done", before, reason)


def _keep_roles(server: Server, operation: Operation) -> None:
    """Remember applied roles, so that a rebuild applies them again; a newer request replaces."""
    known = {role["name"]: role for role in json.loads(server.role_requests or "[]")}
    known |= {role["name"]: role for role in json.loads(operation.secret_request or "[]")}
    server.role_requests = json.dumps(list(known.values()))


def undone(held: Claim) -> None:
    """End an operation as failed (or cancelled) after its undo."""
    with transaction() as session:
        operation = hold(session, held)
        server = session.get_one(Server, operation.server_id)
        before = server.status
        previous = Status(operation.previous_status or server.status)
        server.status = TRANSITIONS[held.verb].undone or previous
        if operation.request.get(COMMITTED):
            server.status = ending(held.verb, previous)
        server.fault = operation.error
        attachments.settle(session, operation)
        if not operation.request.get(COMMITTED):
            pools.settle(session, operation)
        cards.settle(session, operation)
        layering.settle(session, operation)
        resizing.settle(session, operation)
        if held.verb in BIRTHS and not remains.has_artifacts(session, server.id):
            remains.release(session, server)
        phase = Phase.CANCELLED if operation.cancel_requested else Phase.FAILED
        _end(session, operation, server, phase)
        reason = operation.error or ""
        _record(session, operation, server, f"server.{held.verb}.{phase}", before, reason)


def _end(session: Session, operation: Operation, server: Server, phase: Phase) -> None:
    operation.phase, operation.ended_at = phase, now()
    operation.secret_request = None
    server.operation_id, server.updated_at = None, now()
    if operation.verb in {Verb.MIGRATE, Verb.SHELVE} and operation.request.get(COMMITTED):
        lineage.stand_alone(session, server.id)  # what leant on its source is gone only now
    reservations.settle(session, server)
    binding.settle(session, operation, server)
    if server.status == Status.SHELVED:  # its address and port stay its own, closed
        server.placed = False
        of_server = update(PortForward).where(PortForward.server_id == server.id)
        session.execute(of_server.values(enabled=False))
    lineage.let_go(session, operation)
    session.flush()


def _record(
    session: Session, operation: Operation, server: Server, kind: str, before: str, reason: str
) -> None:
    events.record(
        session,
        kind,
        actor=operation.actor,
        project_id=server.project_id,
        server_id=server.id,
        operation_id=operation.id,
        reason=reason,
        before={"status": before},
        after={"status": server.status},
    )
