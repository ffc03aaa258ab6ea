"""Wanted resources: one operation after another, until a server has what was asked for.

The wanted state is kept with the server before its first operation is accepted. After each one the
difference is taken anew, by the run that ended it or else by reconcile; so nothing is lost when
somebody is killed, and the key of each operation sees that it is made once.
"""

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk, Operation, Server, now
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status
from innkeeper.domain.placement import Demand
from innkeeper.domain.wanted import Fine, ResourcesRequest, Step, difference
from innkeeper.errors import Conflict, InnkeeperError, NotFound, TransientError
from innkeeper.services import accept, events, hostcheck, operations, verifying
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, OperationView, Role

KEY = "resources:{}:{}:{}"


def _left(session: Session, server: Server, wanted: ResourcesRequest) -> list[Step]:
    """Return what is left to do; a resize that waits counts as what it will be."""
    size = Demand(server.vcpus, server.memory_mib, server.disk_gib)
    own = fine = Fine(server.cpu, server.memory)
    if server.pending:
        after = server.pending["after"]
        size = Demand(after["vcpus"], after["memory_mib"], after["disk_gib"])
        fine = Fine(after["cpu"], after.get("memory", {}))
    rows = session.scalars(select(DataDisk).where(DataDisk.project_id == server.project_id)).all()
    held = {row.name: row.size_gib for row in rows if row.server_id == server.id}
    kept = {row.name: row.size_gib for row in rows if row.phase == "available"}
    return difference(wanted, size, fine, held, kept, own=own)


def _locked(session: Session, server_id: UUID, project_id: UUID | None) -> Server:
    server = session.get(Server, server_id, with_for_update=True)
    if server is None or (project_id is not None and server.project_id != project_id):
        raise NotFound("There is no such server: see `innkeeper server list`.")
    return server


def plan(
    server_id: UUID, wanted: ResourcesRequest, *, project_id: UUID | None, actor: str, role: Role
) -> list[ChangePlan]:
    """Return the plans of what would be done, each as if it were done alone.

    Raises:
        NotFound, Conflict, InvalidRequest, Forbidden, …: the refusal of one of them.
    """
    with transaction() as session:
        server = _locked(session, server_id, project_id)
        if server.status == Status.DELETED:
            raise Conflict(f"'{server.name}' is deleted: there is nothing to give it.")
        steps = _left(session, server, wanted)
        new = {what for verb, _, what in steps if verb == "attach-disk"}
    plans = []
    for verb, body, what in steps:
        hostcheck.require_role(role, body)
        if verb == "grow-disk" and what in new:  # it has to be there first
            continue
        try:
            accept.request(
                *(verb, server_id, body),
                project_id=project_id,
                actor=actor,
                foresight=Foresight(dry_run=True),
            )
        except Foreseen as seen:
            plans.append(seen.plan)
    return plans


def put(
    server_id: UUID, wanted: ResourcesRequest, *, project_id: UUID | None, actor: str, role: Role
) -> OperationView | None:
    """Have a server get what is wanted; return the first operation, None: it has all of it.

    Asked for again meanwhile, it is the operation that is at work. What would be refused is refused
    before anything is begun.

    Raises:
        NotFound, Conflict, InvalidRequest, Forbidden, …: nothing is begun.
    """
    plain = wanted.model_dump(mode="json")
    with verifying.giving_way(dry_run=False), transaction() as session:
        server = _locked(session, server_id, project_id)
        if server.operation_id is not None:
            if server.wanted and server.wanted["request"] == plain:
                return operations.view(session, session.get_one(Operation, server.operation_id))
            raise verifying.holder(session, server)
    if not plan(server_id, wanted, project_id=project_id, actor=actor, role=role):
        return None
    with transaction() as session:
        server = _locked(session, server_id, project_id)
        identifier = str(uuid4())
        server.wanted = {
            "id": identifier,
            "actor": actor,
            "since": now().isoformat(),
            "request": plain,
        }
        events.record(
            session,
            "server.resources.wanted",
            actor=actor,
            project_id=server.project_id,
            server_id=server.id,
            after=plain,
        )
    try:
        return _next(server_id)
    except InnkeeperError:
        _forget(server_id, identifier, "")
        raise


def pursue(server_id: UUID) -> OperationView | None:
    """Go on towards what is wanted of a server: accept its next operation, if it is free.

    Return it if it is to be started: a resize that waits is not. A refusal ends it, and is told by
    an event.
    """
    with transaction() as session:
        server = session.get(Server, server_id)
        if server is None or server.wanted is None or server.operation_id is not None:
            return None
        identifier = server.wanted["id"]
    view = None
    try:
        view = _next(server_id)
    except (verifying.ServerBusy, TransientError):
        pass  # later
    except InnkeeperError as refused:
        _forget(server_id, identifier, str(refused))
    return view if view and view.phase is Phase.QUEUED else None


def _next(server_id: UUID) -> OperationView | None:
    with transaction() as session:
        server = _locked(session, server_id, None)
        if server.wanted is None:
            return None
        kept: dict[str, Any] = server.wanted
        steps = _left(session, server, ResourcesRequest.model_validate(kept["request"]))
        if not steps:
            _end(session, server, "all of it is there")
            return None
        verb, body, what = steps[0]
    view = accept.request(
        *(verb, server_id, body),
        project_id=None,
        actor=kept["actor"],
        idempotency_key=KEY.format(kept["id"], verb, what),
    )
    if view.phase in {Phase.FAILED, Phase.CANCELLED} or (view.phase.ended and not view.deferred):
        raise Conflict(f"{verb} of {what} has {view.phase}: {view.error or 'it is not there'}")
    if not view.deferred:
        return view
    _require_waiting(server_id, view)
    return _next(server_id) or view


def _require_waiting(server_id: UUID, view: OperationView) -> None:
    """See that a resize that was accepted to wait does so still; else it would be asked for again.

    Raises:
        ServerBusy: perhaps it is at work now.
        Conflict: it was cancelled, or came to nothing.
    """
    with transaction() as session:
        server = _locked(session, server_id, None)
        if server.pending and server.pending["operation_id"] == str(view.id):
            return
        if server.operation_id is not None:
            raise verifying.holder(session, server)
    raise Conflict("the resize that waited was cancelled, or came to nothing")


def _end(session: Session, server: Server, reason: str) -> None:
    events.record(
        session,
        "server.resources.ended",
        project_id=server.project_id,
        server_id=server.id,
        reason=reason,
        before=(server.wanted or {}).get("request"),
    )
    server.wanted = None


def _forget(server_id: UUID, identifier: str, reason: str) -> None:
    with transaction() as session:
        server = _locked(session, server_id, None)
        if server.wanted and server.wanted["id"] == identifier:
            _end(session, server, f"given up: {reason}" if reason else "refused")


def unfinished() -> list[UUID]:
    """Return the free servers of which something is wanted still."""
    with transaction() as session:
        free = select(Server.id).where(Server.wanted.is_not(None), Server.operation_id.is_(None))
        return list(session.scalars(free))
