"""What a resize means for quota and capacity, inside the transaction that accepts or undoes it.

While it is at work the server holds the larger of both sizes; the shapes are in the operation.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import Host, Operation, Plan, Project, Server, Snapshot, now
from innkeeper.domain import backing, maintenance, tuning
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.pending import PendingResizeRequest
from innkeeper.domain.placement import Demand
from innkeeper.domain.quotas import Amounts, require_within
from innkeeper.domain.resizing import Resize, Room, Shape, require_room, resize
from innkeeper.domain.specs import ResizeRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import events, limits, offers, reservations
from innkeeper.services.archive import is_current
from innkeeper.settings import settings

WAITS_AGAIN = "waits_again"  # in an operation's request: nothing was done, the window has closed


class PowerCycleNeeded(Conflict):
    """The change cannot be made while the guest runs, and nobody allowed to interrupt it."""

    slug = "power-cycle-needed"
    title = "Power cycle needed"


def shape_of(server: Server) -> Shape:
    """Return the shape that the server's domain is defined with."""
    return Shape(
        server.vcpus,
        server.memory_mib,
        server.disk_gib,
        max(server.max_vcpus or 0, server.vcpus),
        max(server.max_memory_mib or 0, server.memory_mib),
        dict(server.cpu),
        dict(server.memory),
    )


def demand_of(server: Server) -> Demand:
    """Return what a server takes of its host, with what a resize that waits will grow by."""
    return Demand(
        server.vcpus + server.pending_vcpus,
        server.memory_mib + server.pending_memory_mib,
        server.disk_gib + server.pending_disk_gib,
    )


def waiting_of(server: Server) -> Demand:
    """Return what a resize that waits will grow a server by."""
    return Demand(server.pending_vcpus, server.pending_memory_mib, server.pending_disk_gib)


def give(server: Server, shape: Shape) -> None:
    """Write a shape into the server's row."""
    for name, value in asdict(shape).items():
        setattr(server, name, value)
    server.pages = shape.pages


def fresh_shape(
    size: Demand,
    host: Host,
    cpu: dict[str, Any] | None = None,
    memory: dict[str, Any] | None = None,
) -> Shape:
    """Return the shape that a guest of this size is started with on a host."""
    return Room(host.vcpus, settings().memory_headroom).shape(size, cpu, memory)


def way(operation: Operation) -> Resize | None:
    """Return the way of a resize that was accepted; None for other verbs."""
    if "after" not in operation.request:
        return None
    asked = operation.request
    return Resize(Shape(**asked["before"]), Shape(**asked["after"]), asked["obstacles"])


def way_of(pending: dict[str, Any]) -> Resize:
    """Return the way of a resize that waits."""
    before, after = Shape(**pending["before"]), Shape(**pending["after"])
    return Resize(before, after, pending["obstacles"])


def prepare(
    session: Session,
    server: Server,
    body: BaseModel,
    *,
    pluggable: int | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Check a resize, reserve its growth, and return what its operation notes.

    The caller holds the locks of project and server; the guest's emulator takes `pluggable` more
    vCPUs (None: any number).

    Raises:
        QuotaExceeded, NoHostFits, PowerCycleNeeded, Conflict, NotFound, InvalidRequest: nothing
            was reserved.
    """
    if not isinstance(body, ResizeRequest):
        return {}
    host = session.get_one(Host, server.host_id)
    wanted, plan = _wanted(session, server, body)
    replaced = let_go(server)
    room = Room(host.vcpus, settings().memory_headroom, pluggable)
    runs = server.status == Status.ACTIVE
    before = shape_of(server)
    fine, made_of = fine_print(server, body)
    same = (wanted, fine, made_of) == (before.demand, before.cpu, before.memory)
    if replaced.pending and same:
        raise Conflict(
            f"'{server.name}' has this size now, and another resize of it waits: cancel that one "
            f"(`innkeeper server cancel-resize {server.name}`) to have it stay as it is."
        )
    found = resize(before, wanted, room, runs=runs, cpu=fine, memory=made_of)
    refuse_under_memory(session, server, found)
    ends: dict[str, Any] = {}
    if isinstance(body, PendingResizeRequest):
        ends = {"ends": body.ends, "hard": body.hard, "pending": replaced.pending}
        if body.cycle and not found.obstacles:
            found = replace(found, obstacles={"power": "it is to be powered off and on"})
    elif replaced.pending:
        _tell_replaced(session, server, replaced.pending)
    cycles = bool(found.obstacles) and not (body.allow_power_cycle or in_window(server))
    if cycles and not (body.defer or dry_run):
        reasons = "; ".join(f"{subject}: {why}" for subject, why in found.obstacles.items())
        raise PowerCycleNeeded(
            f"'{server.name}' has to be powered off and on for this ({reasons}). Pass "
            "allow_power_cycle (--allow-power-cycle), or defer (--defer) to have it wait, ask in "
            f"its maintenance window ({server.maintenance_window or 'it has none'}), or look at "
            "the plan (--dry-run)."
        )
    waits = cycles and body.defer
    _require_room(session, server, found, replaced.growth)
    _require_offered(session, server, host, found)
    _hold(server, found, waits=waits)
    session.flush()
    return {
        **ends,
        "deferred": waits,
        "shape": asdict(found.before),  # as it was, whatever becomes of it
        "before": asdict(found.before),
        "after": asdict(found.after),
        "obstacles": found.obstacles,
        "plan_id": str(plan.id) if plan else None,
        "window": None if body.allow_power_cycle else server.maintenance_window,
    }


def _tell_replaced(session: Session, server: Server, replaced: dict[str, Any]) -> None:
    events.record(
        session,
        "server.resize.replaced",
        project_id=server.project_id,
        server_id=server.id,
        operation_id=UUID(replaced["operation_id"]),
        reason="another resize was asked for: the one that waited is forgotten",
        before=replaced["after"],
    )


def in_window(server: Server) -> bool:
    """Tell whether a server may be interrupted now without being asked."""
    text = server.maintenance_window
    return text is not None and maintenance.parse(text).open_at(now())


def _wanted(session: Session, server: Server, body: ResizeRequest) -> tuple[Demand, Plan | None]:
    if isinstance(body, PendingResizeRequest) and body.vcpus and body.memory_mib and body.disk_gib:
        plan = session.get(Plan, UUID(body.plan_id)) if body.plan_id else None
        return Demand(body.vcpus, body.memory_mib, body.disk_gib), plan
    asked = (body.plan, body.vcpus, body.memory_mib, body.disk_gib, body.cpu, body.memory)
    if asked == (None,) * len(asked):
        raise InvalidRequest("A resize needs a plan, vCPUs, memory, a disk or a CPU to go to.")
    if body.plan is None:
        if body.memory_mib is not None:
            _check_memory(session, body.memory_mib)
        size = Demand(
            body.vcpus or server.vcpus,
            body.memory_mib or server.memory_mib,
            body.disk_gib or server.disk_gib,
        )
        return size, None
    if body.vcpus is not None or body.memory_mib is not None:
        raise InvalidRequest("Name a plan, or vCPUs and memory, not both.")
    plan = session.scalar(
        select(Plan)
        .where(Plan.name == body.plan, is_current(Plan.name))
        .with_for_update(read=True, key_share=True)
    )
    if plan is None:
        raise NotFound(f"There is no plan '{body.plan}': see `innkeeper plan list`.")
    disk = body.disk_gib or max(server.disk_gib, plan.disk_gib)
    return Demand(plan.vcpus, plan.memory_mib, disk), plan


def fine_print(server: Server, body: ResizeRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fine print of CPU and memory that is asked for."""
    if isinstance(body, PendingResizeRequest) and body.fine is not None:
        return body.fine, body.backing or {}
    memory = backing.merged(server.memory, body.memory)
    return tuning.merged(server.cpu, body.cpu), memory


def more_memory(session: Session, server: Server, body: ResizeRequest) -> int:
    """Return how many MiB of memory a server would take more than it holds already."""
    named = select(Plan.memory_mib).where(Plan.name == body.plan, is_current(Plan.name))
    wanted = body.memory_mib or (session.scalar(named) if body.plan else None)
    held = server.memory_mib + server.pending_memory_mib
    return (wanted or held) - held


def _check_memory(session: Session, memory_mib: int) -> None:
    least = limits.least_memory_mib(session)
    if memory_mib < least:
        raise InvalidRequest(f"A server has {least} MiB of memory or more, {memory_mib} asked.")


def refuse_under_memory(session: Session, server: Server, found: Resize) -> None:
    """Refuse what would leave snapshots with a memory that fits no server any more."""
    old, new = found.before, found.after
    same = (old.vcpus, old.memory_mib) == (new.vcpus, new.memory_mib)
    same = same and tuning.started_with(old.cpu) == tuning.started_with(new.cpu)
    if same and backing.started_with(old.memory) == backing.started_with(new.memory):
        return
    names = session.scalars(
        select(Snapshot.name)
        .where(Snapshot.server_id == server.id, Snapshot.memory, Snapshot.volume.is_not(None))
        .order_by(Snapshot.created_at)
    ).all()
    if names:
        raise Conflict(
            f"'{server.name}' has snapshots with its memory ({', '.join(names)}): a memory cannot "
            "go on with other processors or another size. Delete them first (`innkeeper snapshot "
            "delete`); its disk can grow all the same."
        )


@dataclass(frozen=True)
class Released:
    """A resize that waited until a moment ago, and what was held for it."""

    pending: dict[str, Any] | None
    growth: Demand


def let_go(server: Server) -> Released:
    """Forget the resize that waits, if there is one; the caller holds the server's lock."""
    released = Released(server.pending, waiting_of(server))
    server.pending = None
    server.pages = shape_of(server).pages
    server.pending_vcpus = server.pending_memory_mib = server.pending_disk_gib = 0
    return released


def keep_pending(server: Server, operation: Operation) -> None:
    """Keep a resize that was accepted to wait; what it grows by is held since its acceptance."""
    asked = operation.request
    server.pending = {
        "operation_id": str(operation.id),
        "actor": operation.actor,
        "since": now().isoformat(),
        **{key: asked[key] for key in ("before", "after", "obstacles", "plan_id", "expand")},
    }


def _require_offered(session: Session, server: Server, host: Host, found: Resize) -> None:
    """Pass when the server's host can give what changes of the fine print, and the huge pages."""
    old, new = found.before, found.after
    if (old.cpu, old.memory, old.pages) == (new.cpu, new.memory, new.pages):
        return
    if new.pages:  # nobody else takes them meanwhile
        reservations.capacities(session, lock=True)
    offers.require(session, host, new.cpu, new.memory, new.pages, server)


def _require_room(session: Session, server: Server, found: Resize, held: Demand) -> None:
    """Pass when quota and host give what it grows by, unless that is held for it already."""
    more = found.growth
    if (
        more.vcpus <= held.vcpus
        and more.memory_mib <= held.memory_mib
        and more.disk_gib <= held.disk_gib
    ):
        return
    quota = session.get_one(Project, server.project_id).quota
    require_within(
        Amounts(  # what does not grow may be over a limit that was lowered since
            -1,
            quota.vcpus if more.vcpus else -1,
            quota.memory_mib if more.memory_mib else -1,
            quota.disk_gib if more.disk_gib else -1,
        ),
        reservations.reserved_by_project(session, server.project_id),
        Amounts(0, more.vcpus, more.memory_mib, more.disk_gib),
    )
    capacities = reservations.capacities(session, lock=True)
    require_room(next(host for host in capacities if host.host_id == server.host_id), found)


def _hold(server: Server, found: Resize, *, waits: bool) -> None:
    """Hold the larger of both sizes; for one that waits beside the size that the server has."""
    server.pages = backing.most(found.before.pages, found.after.pages)
    if waits:
        more = found.growth
        server.pending_vcpus, server.pending_memory_mib = more.vcpus, more.memory_mib
        server.pending_disk_gib = more.disk_gib
        return
    held = found.peak
    server.vcpus, server.memory_mib, server.disk_gib = held.vcpus, held.memory_mib, held.disk_gib


def settle(session: Session, operation: Operation) -> None:
    """Give back what an undone resize held; what could not be undone is in its `before` by now.

    One that came too late for the maintenance window goes on waiting for the next.
    """
    found = way(operation)
    if operation.verb == Verb.RESIZE and found and not operation.request.get("adopted"):
        server = session.get_one(Server, operation.server_id)
        give(server, found.before)
        if operation.request.get(WAITS_AGAIN) and not operation.cancel_requested:
            server.pending = operation.request["pending"]
            _hold(server, found, waits=True)
