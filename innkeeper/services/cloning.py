"""Acceptance of clones: the new server is reserved, and its source held until it is frozen.

Two servers are in one operation, which is the new server's. The source is claimed in the same
transaction, and freed by the one that makes its frozen file a snapshot (docs/adr/0009). Locks are
taken in the order of all acceptances: project, server, hosts.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Disk, Host, Image, Operation, Plan, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain import naming
from innkeeper.domain.lifecycle import Status, Verb, require_allowed
from innkeeper.domain.placement import Demand, Tie, Verdict, place, require_chosen
from innkeeper.domain.specs import CloneRequest, SnapshotRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import (
    events,
    journal,
    layering,
    lineage,
    offers,
    planning,
    reservations,
    resizing,
    verifying,
)
from innkeeper.services.admission import (
    Secrets,
    current_plan,
    digest_of,
    locked_project,
    make_secrets,
    refusals,
    repetition,
    require_free_name,
    require_quota,
)
from innkeeper.services.offers import FinePrint
from innkeeper.services.operations import view
from innkeeper.services.planning import ACT, Foresight
from innkeeper.services.views import OperationView


def clone_server(
    source_id: UUID,
    request: CloneRequest,
    *,
    project_id: UUID | None,
    actor: str,
    idempotency_key: str | None = None,
    foresight: Foresight = ACT,
) -> OperationView:
    """Accept a clone of a server and return its queued operation; its server is the new one.

    Raises:
        Foreseen: it was a dry run; the plan is in it.
        NotFound: no such server, snapshot or plan in the project.
        Conflict: the source is at work, or where it cannot be cloned; the name is taken.
        QuotaExceeded, NoHostFits, ForwardPortsExhausted, InvalidRequest: nothing was reserved.
    """
    owner = _owner(source_id, project_id)
    made = make_secrets(with_password=request.root_password)
    key = None if foresight.dry_run else idempotency_key
    with (
        planning.warned(),
        verifying.giving_way(dry_run=foresight.dry_run),
        refusals(request.name, owner, actor, keep=not foresight.dry_run) as verdicts,
        transaction() as session,
    ):
        project = locked_project(session, owner)
        source = session.get_one(Server, source_id, with_for_update=True)
        plain = request.model_dump(mode="json")
        digest = digest_of(Verb.CLONE, str(source_id), plain)
        if repeated := repetition(session, owner, key, digest):
            return view(session, repeated)
        _require_clonable(session, source, request)
        require_free_name(session, owner, request.name)
        plan = current_plan(session, request.plan) if request.plan else None
        demand = _demand(source, request, plan)
        require_quota(session, project, demand)
        base = _base(session, source, request)
        fine = offers.wanted(request, demand)
        verdict = _place(session, source, demand, fine)
        verdicts.append(verdict)
        host = session.get_one(Host, require_chosen(verdict))
        server = _server(source, request, made, plan)
        resizing.give(server, resizing.fresh_shape(demand, host, *fine))
        session.add(server)
        session.flush()
        seen = planning.look(session, server, Verb.CLONE, request, foresight, source.id)
        session.add(_disk(session, source, server, base))
        reservations.connect(session, server, host, beside=source)
        operation = Operation(
            project_id=owner,
            server_id=server.id,
            verb=Verb.CLONE,
            actor=actor,
            idempotency_key=key,
            request_hash=digest,
            request=_noted(source, request, base),
            previous_status=Status.REQUESTED,
            verdict=verdict.as_dict(),
        )
        session.add(operation)
        session.flush()
        server.operation_id = operation.id
        if base.volume is None:
            source.operation_id = operation.id
        _record(session, operation, source, server, host)
        planning.tell(session, seen, server, operation)
        return view(session, operation)


def _owner(source_id: UUID, project_id: UUID | None) -> UUID:
    with transaction() as session:
        source = session.get(Server, source_id)
        if source is None or (project_id is not None and source.project_id != project_id):
            raise NotFound("There is no such server: see `innkeeper server list`.")
        return source.project_id


def _require_clonable(session: Session, source: Server, request: CloneRequest) -> None:
    if source.operation_id is not None:
        raise verifying.holder(session, source)
    if request.snapshot is None or source.status != Status.SUSPENDED:  # its disk is let alone
        require_allowed(Verb.CLONE, Status(source.status))


def _demand(source: Server, request: CloneRequest, plan: Plan | None) -> Demand:
    disk = request.disk_gib or max(source.disk_gib, plan.disk_gib if plan else 0)
    if disk < source.disk_gib:
        raise InvalidRequest(
            f"'{source.name}' has a disk of {source.disk_gib} GiB, {disk} asked: that of a clone "
            "may only be larger."
        )
    if plan is not None:
        return Demand(plan.vcpus, plan.memory_mib, disk)
    return Demand(source.vcpus, source.memory_mib, disk)


def _base(session: Session, source: Server, request: CloneRequest) -> Snapshot:
    """Return the snapshot that the clone will stand on: a given one, or one to be taken now."""
    if request.snapshot is None:
        wanted = SnapshotRequest(
            name=_free_label(session, source, request.name),
            description=f"What clone {request.name} was made from",
        )
        base = layering.reserve(session, source, wanted)
        base.for_clones = True
        return base
    base = layering.find(session, source, request.snapshot)
    if base.phase != "ready":
        raise Conflict(f"Snapshot '{base.name}' is {base.phase}, not ready.")
    if not base.enabled:
        raise Conflict(
            f"Snapshot '{base.name}' is not enabled: `innkeeper snapshot set` enables it."
        )
    return base


def _free_label(session: Session, source: Server, clone: str) -> str:
    """Return a name for the source's snapshot: that of the clone, numbered when it is taken."""
    known = select(Snapshot.name).where(Snapshot.server_id == source.id)
    taken = set(session.scalars(known))
    stem = f"clone-{clone}"[:58].rstrip("-")
    names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _place(session: Session, source: Server, demand: Demand, fine: FinePrint) -> Verdict:
    image = session.get_one(Image, source.image_id)
    capacities = [
        offers.judged(session, host, demand, fine)
        for host in reservations.capacities(session, lock=True, image=image)
    ]
    named = {capacity.host_id: capacity.name for capacity in capacities}
    if source.host_id is None:
        raise Conflict(f"'{source.name}' is on no host: there is no disk to clone.")
    reason = f"the disk of '{source.name}' is on {named[source.host_id]}"
    return place(demand, capacities, Tie(source.host_id, reason))


def _server(source: Server, request: CloneRequest, made: Secrets, plan: Plan | None) -> Server:
    keys = source.request.get("ssh_keys", []) if request.ssh_keys is None else request.ssh_keys
    fixed = bool(source.request.get("static_address"))
    return Server(
        project_id=source.project_id,
        name=request.name,
        status=Status.REQUESTED,
        host_id=source.host_id,
        image_id=source.image_id,
        plan_id=plan.id if plan else source.plan_id,
        request={"ssh_keys": keys, "packages": [], "static_address": fixed},
        user_data=request.user_data,
        runcmd="[]",
        role_requests="[]",
        root_password=made.root_password,
        root_password_hash=made.root_password_hash,
        host_key_private=made.host_key_private,
        host_key_public=made.host_key_public,
        description=request.description,
    )


def _disk(session: Session, source: Server, server: Server, base: Snapshot) -> Disk:
    image_id = session.scalars(select(Disk.image_id).where(Disk.server_id == source.id)).one()
    return Disk(
        server_id=server.id,
        volume=naming.root_volume(server.id),
        image_id=image_id,
        size_gib=server.disk_gib,
        base_snapshot_id=base.id,
    )


def _noted(source: Server, request: CloneRequest, base: Snapshot) -> dict[str, Any]:
    """Return what the operation's steps need to know; nothing of it is secret."""
    return {
        "source_id": str(source.id),
        "source": source.name,
        "snapshot_id": str(base.id),
        "mode": request.mode,
        "quiesce": request.quiesce,
        "own_keys": request.ssh_keys is not None,
    }


def _record(
    session: Session, operation: Operation, source: Server, server: Server, host: Host
) -> None:
    events.record(
        session,
        "server.clone.accepted",
        actor=operation.actor,
        project_id=server.project_id,
        server_id=server.id,
        operation_id=operation.id,
        reason=f"{operation.request['mode']} clone of {source.name}, on {host.name}",
        after={"status": Status.REQUESTED, "host": host.name},
    )
    events.record(
        session,
        "server.cloned",
        actor=operation.actor,
        project_id=source.project_id,
        server_id=source.id,
        operation_id=operation.id,
        reason=f"{operation.request['mode']} clone {server.name}",
    )


def stand_alone(held: Claim) -> None:
    """Note that a flattened disk stands on its image only: its source is free of it.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        journal.hold(session, held)
        lineage.stand_alone(session, held.server_id)
