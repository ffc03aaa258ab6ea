"""Operations as people see them: get, list, cancel; and what waits to be dispatched."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from innkeeper.db.models import Operation, OperationStep, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import IRREVOCABLE, Phase, Verb
from innkeeper.domain.steps import STEPS
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import events, paging
from innkeeper.services.views import OperationView, Page, StepView


def view(session: Session, operation: Operation) -> OperationView:
    """Return the read model of an operation with its steps."""
    return views(session, [operation])[0]


def views(session: Session, operations: list[Operation]) -> list[OperationView]:
    """Return read models of many operations in a constant number of queries."""
    ids = [operation.id for operation in operations]
    steps: dict[UUID, list[StepView]] = {identifier: [] for identifier in ids}
    for step in session.scalars(
        select(OperationStep)
        .where(OperationStep.operation_id.in_(ids))
        .order_by(OperationStep.begun_at, OperationStep.ordinal)
    ):
        steps[step.operation_id].append(StepView.model_validate(step))
    servers = {operation.server_id for operation in operations}
    names = dict(
        session.execute(select(Server.id, Server.name).where(Server.id.in_(servers))).tuples().all()
    )
    return [
        OperationView(
            id=operation.id,
            project_id=operation.project_id,
            server_id=operation.server_id,
            server=names[operation.server_id],
            verb=Verb(operation.verb),
            phase=Phase(operation.phase),
            undoing=operation.undoing,
            attempt=operation.attempt,
            actor=operation.actor,
            flow_run_id=operation.flow_run_id,
            cancel_requested=operation.cancel_requested,
            snapshot_id=operation.request.get("snapshot_id"),
            disk_id=operation.request.get("disk_id"),
            deferred=bool(operation.request.get("deferred")),
            verdict=operation.verdict,
            error=operation.error,
            created_at=operation.created_at,
            started_at=operation.started_at,
            ended_at=operation.ended_at,
            step_names=list(STEPS[Verb(operation.verb)]),
            steps=steps[operation.id],
        )
        for operation in operations
    ]


def _visible(session: Session, operation_id: UUID, project_id: UUID | None) -> Operation:
    operation = session.get(Operation, operation_id)
    if operation is None or (project_id is not None and operation.project_id != project_id):
        raise NotFound("There is no such operation: see `innkeeper operation list`.")
    return operation


def get(operation_id: UUID, project_id: UUID | None = None) -> OperationView:
    """Return an operation of the project (None: of any project), or raise NotFound."""
    with transaction() as session:
        return view(session, _visible(session, operation_id, project_id))


def page(
    project_id: UUID | None = None,
    *,
    server_id: UUID | None = None,
    phase: Phase | None = None,
    verb: Verb | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[OperationView]:
    """Return a page of operations, newest first."""
    statement = select(Operation)
    for column, value in (
        (Operation.project_id, project_id),
        (Operation.server_id, server_id),
        (Operation.phase, phase),
        (Operation.verb, verb),
    ):
        if value is not None:
            statement = statement.where(column == value)
    with transaction() as session:
        rows, following = paging.page(
            session, statement, Operation.created_at, Operation.id, limit=limit, cursor=cursor
        )
        return Page(items=views(session, rows), next_cursor=following)


def cancel(operation_id: UUID, project_id: UUID | None, actor: str) -> OperationView:
    """Ask for an operation to be cancelled; what it did is undone at its next step.

    Raises:
        Conflict: it has ended, or is past undoing (deletion).
    """
    with transaction() as session:
        operation = _visible(session, operation_id, project_id)
        session.refresh(operation, with_for_update=True)
        if Phase(operation.phase).ended:
            raise Conflict(f"The operation has {operation.phase}: there is nothing to cancel.")
        if operation.verb in IRREVOCABLE:
            raise Conflict("A deletion cannot be cancelled: what is gone would not come back.")
        if operation.request.get("committed"):
            raise Conflict("It is past the point where it could be undone: wait for it to end.")
        operation.cancel_requested = True
        events.record(
            session,
            "operation.cancel.requested",
            actor=actor,
            project_id=operation.project_id,
            server_id=operation.server_id,
            operation_id=operation.id,
        )
        session.flush()
        return view(session, operation)


def awaiting_dispatch(older_than_seconds: float, limit: int = 2000) -> list[OperationView]:
    """Return queued operations that were never dispatched, or long ago, oldest first."""
    before = now() - timedelta(seconds=older_than_seconds)
    with transaction() as session:
        rows = session.scalars(
            select(Operation)
            .where(
                Operation.phase == Phase.QUEUED,
                or_(Operation.dispatched_at.is_(None), Operation.dispatched_at <= before),
            )
            .order_by(Operation.created_at)
            .limit(limit)
        ).all()
        return views(session, list(rows))


def mark_dispatched(operation_id: UUID, attempt: int, flow_run_id: UUID) -> None:
    """Note the flow run that carries a queued attempt, so that reconcile can ask after it."""
    with transaction() as session:
        session.execute(
            update(Operation)
            .where(
                Operation.id == operation_id,
                Operation.attempt == attempt,
                Operation.phase == Phase.QUEUED,
            )
            .values(dispatched_at=now(), flow_run_id=flow_run_id)
        )
