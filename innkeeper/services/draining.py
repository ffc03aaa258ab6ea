"""Evacuating a host: it takes nothing new, and its servers move away by ordinary migrations.

What is to be done next is read from the database each time: a run that died is followed by another
one that knows as much. A server is asked once in a drain, under a key made of both.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from innkeeper.db.models import Drain, Host, Operation, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import DrainRequest, MigrateRequest
from innkeeper.errors import ClaimLost, NotFound, PermanentError
from innkeeper.services import accept, events, lineage
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.verifying import ServerBusy
from innkeeper.services.views import DrainStepView, DrainView, OperationView

RUNNING, DONE, INCOMPLETE = "running", "done", "incomplete"


def foresee(host_id: UUID, body: DrainRequest) -> DrainView:
    """Return where each server of a host would go, judged by itself, and what it would notice.

    Raises:
        NotFound: there is no such host.
    """
    with transaction() as session:
        host = _host(session, host_id)
        servers = _on(session, host_id)
    return DrainView(
        id=None,
        host_id=host.id,
        host=host.name,
        phase="planned",
        parallel=body.parallel,
        allow_power_cycle=body.allow_power_cycle,
        servers=[_foreseen(server, body) for server in servers],
    )


def _foreseen(server: Server, body: DrainRequest) -> DrainStepView:
    step = DrainStepView(server_id=server.id, server=server.name, state="waits")
    try:
        accept.request(
            Verb.MIGRATE,
            server.id,
            _wish(body.allow_power_cycle),
            project_id=None,
            actor="drain",
            foresight=Foresight(dry_run=True),
        )
    except Foreseen as told:
        change, host = told.plan.changes[0], told.plan.changes[0].after
        interrupts = change.effect == "power_cycle" and not body.allow_power_cycle
        said: dict[str, object] = {
            "host": host,
            "effect": change.effect,
            "interruption": told.plan.interruption,
        }
        if interrupts:
            said |= {"state": "stays", "reason": "it would be shut down, which is not allowed"}
        return step.model_copy(update=said)
    except PermanentError as refusal:
        return step.model_copy(update={"state": "stays", "reason": str(refusal)})
    return step


def _wish(allow_power_cycle: bool) -> MigrateRequest:
    return MigrateRequest(allow_power_cycle=allow_power_cycle)


def begin(host_id: UUID, body: DrainRequest, *, actor: str) -> DrainView:
    """Keep new servers away from a host and have its own leave; a drain under way goes on.

    Raises:
        NotFound: there is no such host.
    """
    with transaction() as session:
        host = session.get(Host, host_id, with_for_update=True)
        if host is None:
            raise NotFound("There is no such host: see `innkeeper host list`.")
        drain = session.scalar(
            select(Drain).where(Drain.host_id == host_id, Drain.phase == RUNNING)
        )
        if drain is None:
            drain = Drain(
                host_id=host_id,
                actor=actor,
                parallel=body.parallel,
                allow_power_cycle=body.allow_power_cycle,
            )
            session.add(drain)
            events.record(
                session,
                "host.drain.begun",
                actor=actor,
                reason=f"host {host.name}",
                before={"enabled": host.enabled},
                after={"enabled": False},
            )
        host.enabled = False
        session.flush()
        return _view(session, drain)


def get(drain_id: UUID) -> DrainView:
    """Return a drain, or raise NotFound."""
    with transaction() as session:
        drain = session.get(Drain, drain_id)
        if drain is None:
            raise NotFound("There is no such drain.")
        return _view(session, drain)


def latest(host_id: UUID) -> DrainView:
    """Return the last drain of a host, or raise NotFound."""
    with transaction() as session:
        host = _host(session, host_id)
        drain = session.scalar(
            select(Drain).where(Drain.host_id == host_id).order_by(Drain.created_at.desc()).limit(1)
        )
        if drain is None:
            raise NotFound(f"'{host.name}' was never drained.")
        return _view(session, drain)


def find_host(name: str) -> UUID:
    """Return the id of the host of this name, or raise NotFound."""
    with transaction() as session:
        found = session.scalar(select(Host.id).where(Host.name == name))
        if found is None:
            raise NotFound(f"There is no host '{name}': see `innkeeper host list`.")
        return found


def claim(drain_id: UUID) -> int:
    """Take a drain over from whoever had it; return the attempt that fences the earlier ones.

    Raises:
        NotFound: there is no such drain.
        ClaimLost: it has ended.
    """
    with transaction() as session:
        drain = session.get(Drain, drain_id, with_for_update=True)
        if drain is None:
            raise NotFound("There is no such drain.")
        if drain.phase != RUNNING:
            raise ClaimLost(f"The drain is {drain.phase}.")
        drain.attempt += 1
        drain.heartbeat_at = now()
        return drain.attempt


def unfinished(silent_seconds: float) -> list[tuple[UUID, int]]:
    """Return drains that no run is at work on, with the attempt that was the last."""
    before = now() - timedelta(seconds=silent_seconds)
    with transaction() as session:
        silent = or_(Drain.heartbeat_at <= before, Drain.heartbeat_at.is_(None))
        rows = session.execute(
            select(Drain.id, Drain.attempt).where(
                Drain.phase == RUNNING, Drain.created_at <= before, silent
            )
        )
        return list(rows.tuples())


def turn(drain_id: UUID, attempt: int) -> tuple[list[OperationView], bool]:
    """Ask for as many migrations as may begin now; return them, and whether the drain is over.

    Raises:
        ClaimLost: another run has it, or it was stopped.
    """
    with transaction() as session:
        drain = _hold(session, drain_id, attempt)
        asked = _asked(session, drain)
        here = _on(session, drain.host_id)
        going = {
            server.id
            for server in here
            if not (str(server.id) in drain.refusals or _has_ended(asked.get(server.id)))
        }
        # A linked clone leaves before its source, which is free to go then.
        held = lineage.sources_of(session, going)
        waiting = [s for s in here if s.id in going - held and s.id not in asked]
        moving = [op for op in asked.values() if not Phase(op.phase).ended]
        arriving = session.scalar(
            select(Server.id).where(Server.other_host_id == drain.host_id).limit(1)
        )
    begun: list[OperationView] = []
    for server in waiting:
        if len(moving) + len(begun) >= drain.parallel:
            break
        view = _ask(drain, server)
        if view is not None:
            begun.append(view)
    over = not (moving or begun or arriving) and _settled(drain_id, attempt)
    return begun, over


def _has_ended(operation: Operation | None) -> bool:
    return operation is not None and Phase(operation.phase).ended


def _ask(drain: Drain, server: Server) -> OperationView | None:
    """Ask for one migration; a refusal is kept, unless the server is only busy."""
    try:
        return accept.request(
            Verb.MIGRATE,
            server.id,
            _wish(drain.allow_power_cycle),
            project_id=None,
            actor=f"drain:{drain.actor}",
            idempotency_key=_key(drain.id, server.id),
        )
    except PermanentError as refusal:
        with transaction() as session:
            current = _hold(session, drain.id, drain.attempt)
            if not isinstance(refusal, ServerBusy):
                current.refusals = current.refusals | {str(server.id): str(refusal)}
        return None


def _settled(drain_id: UUID, attempt: int) -> bool:
    """End a drain when nothing is left that could still leave; tell whether that is so."""
    with transaction() as session:
        drain = _hold(session, drain_id, attempt)
        asked = _asked(session, drain)
        left = _on(session, drain.host_id)
        if any(
            server.operation_id or (server.id not in asked and str(server.id) not in drain.refusals)
            for server in left
        ):
            return False
        drain.phase, drain.ended_at = (INCOMPLETE if left else DONE), now()
        host = session.get_one(Host, drain.host_id)
        events.record(
            session,
            f"host.drain.{drain.phase}",
            actor=drain.actor,
            reason=f"host {host.name}: {len(left)} server(s) stay",
            after={server.name: _why(drain, asked, server) for server in left},
        )
        return True


def _why(drain: Drain, asked: dict[UUID, Operation], server: Server) -> str:
    operation = asked.get(server.id)
    return drain.refusals.get(str(server.id)) or (operation.error if operation else None) or ""


def _hold(session: Session, drain_id: UUID, attempt: int) -> Drain:
    drain = session.get_one(Drain, drain_id, with_for_update=True)
    if drain.attempt != attempt or drain.phase != RUNNING:
        raise ClaimLost(f"The drain is {drain.phase}, or another run has it: this one ends.")
    drain.heartbeat_at = now()
    return drain


def _key(drain_id: UUID, server_id: UUID) -> str:
    return f"drain:{drain_id}:{server_id}"


def _asked(session: Session, drain: Drain) -> dict[UUID, Operation]:
    prefix = f"drain:{drain.id}:"
    rows = session.scalars(
        select(Operation).where(Operation.idempotency_key.startswith(prefix, autoescape=True))
    )
    return {row.server_id: row for row in rows}


def _host(session: Session, host_id: UUID) -> Host:
    host = session.get(Host, host_id)
    if host is None:
        raise NotFound("There is no such host: see `innkeeper host list`.")
    return host


def _on(session: Session, host_id: UUID) -> list[Server]:
    """Return the servers that take of a host as their own; those on the shelf do not."""
    rows = session.scalars(
        select(Server)
        .where(
            Server.host_id == host_id,
            Server.placed,
            Server.reserved,
            Server.status != Status.DELETED,
        )
        .order_by(Server.created_at, Server.id)
    )
    return list(rows)


def _view(session: Session, drain: Drain) -> DrainView:
    asked = _asked(session, drain)
    here = {server.id: server for server in _on(session, drain.host_id)}
    steps = []
    for server_id, operation in asked.items():
        server = session.get_one(Server, server_id)
        home = session.get(Host, server.host_id) if server.host_id else None
        state = "moves"
        if Phase(operation.phase).ended:
            state = "stays" if server_id in here else "moved"
        steps.append(
            DrainStepView(
                server_id=server_id,
                server=server.name,
                state=state,
                host=home.name if home else None,
                operation_id=operation.id,
                reason=operation.error if state == "stays" else None,
            )
        )
    for server_id, server in here.items():
        if server_id not in asked:
            reason = drain.refusals.get(str(server_id))
            state = "stays" if reason else "waits"
            steps.append(
                DrainStepView(server_id=server_id, server=server.name, state=state, reason=reason)
            )
    return DrainView(
        id=drain.id,
        host_id=drain.host_id,
        host=session.get_one(Host, drain.host_id).name,
        phase=drain.phase,
        parallel=drain.parallel,
        allow_power_cycle=drain.allow_power_cycle,
        attempt=drain.attempt,
        servers=sorted(steps, key=lambda step: step.server),
        created_at=drain.created_at,
        ended_at=drain.ended_at,
    )
