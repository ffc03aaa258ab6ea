"""Acceptance: validate, check the quota, place, reserve and journal, in one transaction.

Every way in (API, CLI, Prefect UI) comes through here, so 50 parallel requests against a quota of
10 give exactly 10 servers. Locks are taken in one order: project, then hosts by id.
"""

import json
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel, ValidationError
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.configuration import catalogue
from innkeeper.contracts import REQUESTS
from innkeeper.db.models import (
    Disk,
    Host,
    Image,
    Operation,
    Plan,
    Server,
    now,
)
from innkeeper.db.session import transaction
from innkeeper.domain import naming
from innkeeper.domain.lifecycle import Phase, Status, Verb, require_allowed
from innkeeper.domain.placement import Demand, Verdict, place, require_chosen
from innkeeper.domain.specs import (
    CloneRequest,
    ConfigureRequest,
    RebuildRequest,
    RoleRequest,
    ServerRequest,
)
from innkeeper.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
)
from innkeeper.services import (
    attachments,
    cards,
    cloning,
    events,
    firmware,
    hostcheck,
    layering,
    migrating,
    offers,
    pending,
    planning,
    reservations,
    resizing,
    shelving,
    verifying,
)
from innkeeper.services.admission import (
    KEY_TAKEN,
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
from innkeeper.services.operations import view
from innkeeper.services.planning import ACT, Foresight
from innkeeper.services.views import OperationView

_RESERVING = {
    *(Verb.SNAPSHOT, Verb.RESIZE, Verb.UNSHELVE, Verb.VERIFY_SNAPSHOT, Verb.MIGRATE),
    *(Verb.ATTACH_DISK, Verb.GROW_DISK, Verb.ATTACH_NIC),
}
"""Verbs that may take more of the project's quota: its lock comes before the server's."""


def ready_image(session: Session, name: str) -> Image:
    """Return a usable image that is not removed meanwhile, or raise NotFound / InvalidRequest."""
    image = session.scalar(
        select(Image).where(Image.name == name).with_for_update(read=True, key_share=True)
    )
    if image is None:
        raise NotFound(f"There is no image '{name}': see `innkeeper image list`.")
    if image.phase != "ready":
        raise InvalidRequest(f"Image '{name}' is {image.phase}, not ready: wait or choose another.")
    return image


def _check_disk(image: Image, disk_gib: int) -> None:
    needed = -(-(image.virtual_size_bytes or 0) // (1 << 30))
    if disk_gib < needed:
        raise InvalidRequest(
            f"Image '{image.name}' needs a disk of {needed} GiB or more, {disk_gib} asked."
        )


def check_roles(roles: list[RoleRequest]) -> None:
    """Refuse unknown roles and wrong variables before anything is made."""
    for role in roles:
        catalogue.validate(role.name, role.variables)


def create_server(
    request: ServerRequest,
    *,
    project_id: UUID,
    actor: str,
    idempotency_key: str | None = None,
    foresight: Foresight = ACT,
) -> OperationView:
    """Accept a request for a server and return its queued operation.

    Raises:
        Foreseen: it was a dry run; the plan is in it.
        QuotaExceeded, NoHostFits, ForwardPortsExhausted, NotFound, InvalidRequest, Conflict:
            nothing was reserved. A refusal by placement is kept as an event with its verdict.
    """
    check_roles(request.roles)
    hostcheck.ask_for(request)
    made = make_secrets(with_password=request.root_password)
    with (
        planning.warned(),
        refusals(request.name, project_id, actor, keep=not foresight.dry_run) as verdicts,
        transaction() as session,
    ):
        return _create(
            session, request, made, project_id, actor, idempotency_key, verdicts, foresight
        )


def _create(
    session: Session,
    request: ServerRequest,
    made: Secrets,
    project_id: UUID,
    actor: str,
    key: str | None,
    verdicts: list[Verdict],
    foresight: Foresight,
) -> OperationView:
    body = request.model_dump(mode="json")
    digest = digest_of(Verb.CREATE, request.name, body)
    project = locked_project(session, project_id)
    if not foresight.dry_run and (repeated := repetition(session, project_id, key, digest)):
        return view(session, repeated)
    require_free_name(session, project_id, request.name)
    plan = current_plan(session, request.plan)
    image = ready_image(session, request.image)
    demand = Demand(plan.vcpus, plan.memory_mib, request.disk_gib or plan.disk_gib)
    _check_disk(image, demand.disk_gib)
    require_quota(session, project, demand)
    fine = offers.wanted(request, demand)
    capacities = reservations.capacities(session, lock=True, image=image)
    verdict = place(demand, [offers.judged(session, host, demand, fine) for host in capacities])
    verdicts.append(verdict)
    host = session.get_one(Host, require_chosen(verdict))
    server = _server(request, made, project_id, host, image, plan)
    resizing.give(server, resizing.fresh_shape(demand, host, *fine))
    session.add(server)
    session.flush()
    seen = planning.look(session, server, Verb.CREATE, request, foresight, project_id)
    session.add(
        Disk(
            server_id=server.id,
            volume=naming.root_volume(server.id),
            image_id=image.id,
            size_gib=demand.disk_gib,
        )
    )
    limits = (request.inbound_kb, request.outbound_kb)
    reservations.connect(session, server, host, limits=limits)
    operation = Operation(
        project_id=project_id,
        server_id=server.id,
        verb=Verb.CREATE,
        actor=actor,
        idempotency_key=None if foresight.dry_run else key,
        request_hash=digest,
        request={"image": image.name, "plan": plan.name},
        previous_status=Status.REQUESTED,
        verdict=verdict.as_dict(),
    )
    session.add(operation)
    session.flush()
    server.operation_id = operation.id
    events.record(
        session,
        "server.create.accepted",
        actor=actor,
        project_id=project_id,
        server_id=server.id,
        operation_id=operation.id,
        reason=f"placed on {host.name}",
        after={"status": Status.REQUESTED, "host": host.name},
    )
    planning.tell(session, seen, server, operation)
    return view(session, operation)


def _server(
    request: ServerRequest,
    made: Secrets,
    project_id: UUID,
    host: Host,
    image: Image,
    plan: Plan,
) -> Server:
    open_fields = {"ssh_keys", "packages", "static_address"}
    return Server(
        project_id=project_id,
        name=request.name,
        status=Status.REQUESTED,
        host_id=host.id,
        image_id=image.id,
        plan_id=plan.id,
        request=request.model_dump(mode="json", include=open_fields),
        user_data=request.user_data,
        runcmd=json.dumps(request.runcmd),
        role_requests=json.dumps([role.model_dump(mode="json") for role in request.roles]),
        root_password=made.root_password,
        root_password_hash=made.root_password_hash,
        host_key_private=made.host_key_private,
        host_key_public=made.host_key_public,
        maintenance_window=request.maintenance_window,
        description=request.description,
    )


def _defaults(verb: Verb) -> BaseModel:
    try:
        return REQUESTS[verb]()
    except ValidationError as error:
        missing = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise InvalidRequest(f"Fill in 'request': {verb} needs {missing}.") from error


def request(
    verb: Verb,
    server_id: UUID,
    body: BaseModel | None = None,
    *,
    project_id: UUID | None,
    actor: str,
    idempotency_key: str | None = None,
    foresight: Foresight = ACT,
) -> OperationView:
    """Accept a verb on an existing server and return its queued operation.

    That of a clone is the new server's.

    Raises:
        Foreseen: it was a dry run; the plan is in it.
        NotFound: no such server in the project.
        Conflict: its status does not allow the verb, or another operation holds it.
        InvalidRequest: the parameters contradict a rule.
    """
    body = body or _defaults(verb)
    if isinstance(body, CloneRequest):
        hostcheck.ask(verb, server_id, body, project_id)
        return cloning.clone_server(
            server_id,
            body,
            project_id=project_id,
            actor=actor,
            idempotency_key=idempotency_key,
            foresight=foresight,
        )
    if isinstance(body, ConfigureRequest):
        check_roles(body.roles)
    pluggable = hostcheck.ask(verb, server_id, body, project_id)
    with (
        planning.warned(),
        verifying.giving_way(dry_run=foresight.dry_run),
        transaction() as session,
    ):
        if verb in _RESERVING:
            layering.lock_quota(session, server_id)
        server = session.get(Server, server_id, with_for_update=True)
        if server is None or (project_id is not None and server.project_id != project_id):
            raise NotFound("There is no such server: see `innkeeper server list`.")
        digest = digest_of(verb, str(server_id), body.model_dump(mode="json"))
        key = None if foresight.dry_run else idempotency_key
        if repeated := repetition(session, server.project_id, key, digest):
            return view(session, repeated)
        if server.operation_id is not None:
            raise verifying.holder(session, server)
        verb, body = pending.instead(session, server, verb, body)
        plain = body.model_dump(mode="json")
        require_allowed(verb, Status(server.status))
        if isinstance(body, RebuildRequest) and body.image:
            image = ready_image(session, body.image)
            _check_disk(image, server.disk_gib)
            firmware.require_same(session, server, image)
        seen = planning.look(session, server, verb, body, foresight)
        plain |= _prepared(session, server, verb, body, pluggable, dry_run=foresight.dry_run)
        roles = plain.pop("roles", None)
        operation = Operation(
            id=uuid4(),
            project_id=server.project_id,
            server_id=server.id,
            verb=verb,
            actor=actor,
            idempotency_key=key,
            request_hash=digest,
            request=plain,
            secret_request=json.dumps(roles) if roles is not None else None,
            previous_status=server.status,
            verdict=plain.pop("verdict", None),
        )
        _claim(session, server, operation)
        session.add(operation)
        try:
            session.flush()
        except IntegrityError as error:  # the same key, for another server, a moment ago
            raise Conflict(KEY_TAKEN) from error
        events.record(
            session,
            f"server.{verb}.accepted",
            actor=actor,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=operation.id,
            before={"status": server.status},
        )
        planning.tell(session, seen, server, operation)
        if verb is Verb.DELETE and not server.reserved:
            session.refresh(server)
            _delete_record(session, server, operation)
            session.flush()
        return view(session, pending.settle(session, server, operation))


def _prepared(
    session: Session,
    server: Server,
    verb: Verb,
    body: BaseModel,
    pluggable: int | None,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """Check and reserve what a verb needs; return what its operation notes beside the request."""
    return {
        **attachments.prepare(session, server, body, verb),
        **cards.prepare(session, server, body, verb),
        **layering.prepare(session, server, body, verb),
        **resizing.prepare(session, server, body, pluggable=pluggable, dry_run=dry_run),
        **shelving.prepare(session, server, body),
        **migrating.prepare(session, server, body, dry_run=dry_run),
    }


def _claim(session: Session, server: Server, operation: Operation) -> None:
    """Have a server held by an operation: one conditional UPDATE, so two can never hold it."""
    claimed = session.execute(
        update(Server)
        .where(
            Server.id == server.id,
            Server.operation_id.is_(None),
            Server.status == server.status,
        )
        .values(operation_id=operation.id)
    )
    if claimed.rowcount != 1:  # type: ignore[attr-defined]
        raise Conflict(f"Another operation took '{server.name}' just now: wait for it.")


def _delete_record(session: Session, server: Server, operation: Operation) -> None:
    """End the deletion of a server of which nothing exists but its row."""
    events.record(
        session,
        "server.delete.done",
        actor=operation.actor,
        project_id=server.project_id,
        server_id=server.id,
        operation_id=operation.id,
        reason="nothing of it existed any more",
        before={"status": server.status},
        after={"status": Status.DELETED},
    )
    server.status, server.deleted_at, server.operation_id = Status.DELETED, now(), None
    operation.phase, operation.ended_at = Phase.SUCCEEDED, now()
