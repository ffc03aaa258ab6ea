"""Dry runs, and requests that carry the digest of a plan: both are part of accepting a verb.

A dry run does all that accepting does, in its transaction, and then rolls it back. So a plan says
what accepting would have said, its refusals included.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk as DataDiskRow
from innkeeper.db.models import Disk, Host, Image, Operation, Project, Quota, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain import planning
from innkeeper.domain.diskspecs import DetachDiskRequest
from innkeeper.domain.foresight import foresee
from innkeeper.domain.lifecycle import BIRTHS, Status, Verb
from innkeeper.domain.naming import POOL
from innkeeper.domain.quotas import Amounts, NetworkAmounts, SnapshotAmounts
from innkeeper.domain.specs import CloneRequest
from innkeeper.domain.steps import STEPS
from innkeeper.domain.world import Card, DataDisk, Kept, World
from innkeeper.services import (
    attachments,
    binding,
    cards,
    layering,
    lineage,
    measuring,
    reservations,
    resizing,
)
from innkeeper.services.views import ChangePlan, ChangeView, HostRoom, NicView, QuotaRoom


@dataclass(frozen=True)
class Foresight:
    """How a verb is asked for: only to see its plan, or if all is as in a plan that was seen."""

    dry_run: bool = False
    digest: str | None = None


ACT = Foresight()


class Foreseen(Exception):
    """The end of a dry run, with its plan."""

    def __init__(self, plan: ChangePlan) -> None:
        super().__init__(f"{plan.verb} of {plan.server or 'a disk'}")
        self.plan = plan


@dataclass(frozen=True)
class Prospect:
    """What was seen before a verb touched anything."""

    verb: Verb
    body: BaseModel
    world: World
    facts: dict[str, str]
    foresight: Foresight


def look(
    session: Session,
    server: Server,
    verb: Verb,
    body: BaseModel,
    foresight: Foresight,
    subject: UUID | None = None,
) -> Prospect | None:
    """See what a verb would change, if anybody wants to know.

    `subject` is whom a birth is asked of: the project, or the source of a clone.

    Raises:
        PlanOutdated: it is not as in the plan whose digest was brought.
        InvalidRequest: that is no digest of such a plan.
    """
    if foresight == ACT:
        return None
    disk = session.scalar(select(Disk).where(Disk.server_id == server.id))
    world = _world(session, server, verb, body, disk)
    shape = ", ".join(f"{name} {value}" for name, value in asdict(world.shape).items())
    asked = body.model_dump(mode="json", exclude={"allow_power_cycle"})  # consent is no change
    facts = {
        "request": json.dumps([verb, subject or server.id, asked], sort_keys=True, default=str),
        "status": "" if verb in BIRTHS else world.status,
        "shape": shape,
        "host": world.host,
        "image": _image(session, server, body),
        "disk": disk.volume if disk else "",
        "snapshots": ", ".join(kept.name for kept in world.snapshots),
        "data disks": ", ".join(f"{one.name} {one.size_gib} GiB" for one in world.disks),
        "network cards": ", ".join(f"{one.name} {one.told}" for one in world.cards),
    }
    if foresight.digest is not None:
        planning.require_unchanged(verb, facts, foresight.digest)
    return Prospect(verb, body, world, facts, foresight)


def _image(session: Session, server: Server, body: BaseModel) -> str:
    """Return the image that a verb goes by, and what it consists of."""
    wanted = getattr(body, "image", None)
    image = session.scalar(select(Image).where(Image.name == wanted)) if wanted else None
    image = image or session.get_one(Image, server.image_id)
    return f"{image.name} {(image.sha256 or '')[:12]}".strip()


def _world(
    session: Session, server: Server, verb: Verb, body: BaseModel, disk: Disk | None
) -> World:
    host = session.get(Host, server.host_id)
    rows = session.scalars(
        select(Snapshot)
        .where(Snapshot.server_id == server.id, Snapshot.phase.in_(("ready", "failed")))
        .order_by(Snapshot.created_at)
    )
    lies_on = disk.snapshot_id if disk else None
    kept = tuple(Kept(str(row.id), row.name, row.memory, row.id == lies_on) for row in rows)
    named = None if isinstance(body, CloneRequest) else getattr(body, "snapshot", None)
    subject = layering.find(session, server, named) if named else None
    one = attachments.named(session, server, body)
    nic = cards.named(session, server, body)
    told = cards.views(session, [server.id]).get(server.id, [])[1:]
    beside = binding.neighbours(session, server)
    ground = [] if verb in BIRTHS else lineage.ground(session, server.id)
    further = tuple(Card(view.name, _told(view), beside.get(view.name, ())) for view in told)
    return World(
        server.name,
        Status(server.status),
        resizing.shape_of(server),
        host.name if host else "",
        session.get_one(Image, server.image_id).name,
        kept,
        next((one for one in kept if subject and one.id == str(subject.id)), None),
        disks=tuple(_data_disk(row) for row in attachments.held_by(session, server)),
        disk=_data_disk(one) if one else None,
        cards=further,
        card=next((card for card in further if nic and card.name == nic.name), None),
        shares=session.get_one(Server, ground[0].server_id).name if ground else "",
        shared_mib=-(-sum(layer.size_bytes for layer in ground) >> 20),
        home=host.name if host else "",
        waiting=resizing.way_of(server.pending).changes if server.pending else (),
    )


def _told(view: NicView) -> str:
    return f"on {view.network}" + (f", {view.address}" if view.address else "")


def _data_disk(row: DataDiskRow) -> DataDisk:
    keys = (row.size_gib, row.delete_on_server_delete, row.boot_order, row.pool)
    return DataDisk(row.name, *keys)


def tell(session: Session, seen: Prospect | None, server: Server, operation: Operation) -> None:
    """End a dry run when everything was accepted; or see that the outcome is the one shown.

    Raises:
        Foreseen: it was one; whoever holds the transaction lets that pass, so nothing is kept.
        PlanOutdated: it would be done in another way than the plan says.
    """
    if seen is None:
        return
    # Accepting may have placed it anew.
    host = session.get(Host, server.other_host_id or server.host_id)
    world = replace(
        seen.world,
        resize=resizing.way(operation),
        host=host.name if host else "",
        live=bool(operation.request.get("live")),
        pauses=bool(operation.request.get("pauses")),
        waits=bool(operation.request.get("deferred")),
        lodged={
            row.name: row.other_pool or row.pool for row in attachments.held_by(session, server)
        },
    )
    verb = seen.verb
    plan = foresee(verb, world, seen.body)
    facts = seen.facts | {planning.OUTCOME: plan.outcome}
    if seen.foresight.digest is not None:
        planning.require_unchanged(verb, facts, seen.foresight.digest)
    if not seen.foresight.dry_run:
        return
    if verb is Verb.SHELVE:  # nothing of it is on a host then; the transaction is rolled back
        server.placed = False
        session.flush()
    back = _given_back(verb, world, server, seen.body)
    kept = _snapshots_after(session, server, seen, operation)  # what they give back is seen below
    raise Foreseen(
        ChangePlan(
            verb=verb,
            server_id=None if verb in BIRTHS else server.id,
            server=server.name,
            changes=[ChangeView.model_validate(change) for change in plan.changes],
            interruption=plan.interruption,
            host=_host(session, server, back, _elsewhere(verb, world, back[3])),
            quota=quota_room(
                session.get_one(Project, server.project_id).quota,
                reservations.reserved_by_project(session, server.project_id),
                kept,
                binding.held(session, server.project_id, _unplugged(session, server, seen)),
                back=back,
            ),
            warnings=[*plan.warnings, *_margins(session, server, verb)],
            steps=list(STEPS[verb]),
            digest=planning.digest(verb, facts),
        )
    )


TAKING = frozenset(
    {
        *(Verb.CREATE, Verb.CLONE, Verb.UNSHELVE, Verb.MIGRATE, Verb.RESIZE),
        *(Verb.ATTACH_DISK, Verb.GROW_DISK, Verb.SNAPSHOT),
    }
)
"""Verbs that may take more of a host."""


@contextmanager
def warned() -> Iterator[None]:
    """Have plans of what takes more of a host warn if little is left there, whoever took it.

    The host is asked when the transaction of the dry run is over.
    """
    try:
        yield
    except Foreseen as seen:
        plan = seen.plan
        if plan.verb not in TAKING or plan.host is None:
            raise
        with transaction() as session:
            host = session.scalar(select(Host).where(Host.name == plan.host.name))
        there = measuring.measured([host.id] if host else [])
        told = [one for left in there.values() for one in left.warnings(plan.host.name)]
        raise Foreseen(plan.model_copy(update={"warnings": [*plan.warnings, *told]})) from None


def _margins(session: Session, server: Server, verb: Verb) -> list[str]:
    """Warn of a host of which so much is taken then that it is worth a look."""
    subject = server.other_host_id or server.host_id
    if verb not in TAKING:
        return []
    hosts = reservations.capacities(session, lock=False)
    return [warning for host in hosts if host.host_id == subject for warning in host.warnings]


def _erased(world: World) -> int:
    return sum(disk.size_gib for disk in world.disks if disk.goes_with_server)


def _elsewhere(verb: Verb, world: World, disk_gib: int) -> int:
    """Return what of the disk that is given back was never the host's usual pool's."""
    if verb is Verb.DELETE:
        gone = [disk for disk in world.disks if disk.goes_with_server]
        return sum(disk.size_gib for disk in gone if disk.pool != POOL)
    apart = verb is Verb.DETACH_DISK and world.disk is not None and world.disk.pool != POOL
    return disk_gib if apart else 0


def _given_back(
    verb: Verb, world: World, server: Server, body: BaseModel
) -> tuple[int, int, int, int]:
    """Return the servers, vCPUs, memory and disk that the end of a verb gives back."""
    held = resizing.demand_of(server)
    if verb is Verb.DELETE and server.reserved:
        on_host = (held.vcpus, held.memory_mib) if server.placed else (0, 0)
        return 1, *on_host, held.disk_gib + _erased(world)
    if verb is Verb.DETACH_DISK and world.disk and isinstance(body, DetachDiskRequest):
        return 0, 0, 0, 0 if body.keep else world.disk.size_gib
    if world.resize:
        peak, end = world.resize.peak, world.resize.after
        return 0, peak.vcpus - end.vcpus, peak.memory_mib - end.memory_mib, 0
    return 0, 0, 0, 0


def _host(
    session: Session, server: Server, back: tuple[int, int, int, int], apart: int
) -> HostRoom | None:
    disk_gib = back[3] - apart if server.placed else 0
    subject = server.other_host_id or server.host_id
    found = [h for h in reservations.capacities(session, lock=False) if h.host_id == subject]
    for host in found:
        free = host.free
        return HostRoom(
            name=host.name,
            free_vcpus=free.vcpus + back[1],
            free_memory_mib=free.memory_mib + back[2],
            free_disk_gib=free.disk_gib + disk_gib,
        )
    return None


def quota_room(
    limits: Quota,
    used: Amounts,
    held: SnapshotAmounts,
    networks: NetworkAmounts,
    *,
    back: tuple[int, int, int, int],
) -> QuotaRoom:
    """Return what a quota leaves when servers, vCPUs, memory and disk have been given back."""

    def left(limit: int, amount: int) -> int | None:
        return None if limit < 0 else limit - amount

    return QuotaRoom(
        servers=left(limits.servers, used.servers - back[0]),
        vcpus=left(limits.vcpus, used.vcpus - back[1]),
        memory_mib=left(limits.memory_mib, used.memory_mib - back[2]),
        disk_gib=left(limits.disk_gib, used.disk_gib - back[3]),
        snapshots=left(limits.snapshots, held.snapshots),
        snapshot_gib=left(limits.snapshot_gib, held.snapshot_gib),
        isolated_networks=left(limits.isolated_networks, networks.isolated_networks),
    )


def _unplugged(session: Session, server: Server, seen: Prospect) -> list[UUID]:
    """Return the network cards that go with the verb."""
    if seen.verb is Verb.DELETE:
        return [nic.id for nic in binding.further(session, server)]
    nic = cards.named(session, server, seen.body)
    return [nic.id] if nic else []


def _snapshots_after(
    session: Session, server: Server, seen: Prospect, operation: Operation
) -> SnapshotAmounts:
    """Return what the project's snapshots hold when those that go with the verb are gone."""
    gone: list[UUID] = []
    if seen.verb is Verb.DELETE:
        gone = [UUID(kept.id) for kept in seen.world.snapshots]
    elif seen.verb is Verb.DELETE_SNAPSHOT and seen.world.subject:
        gone = [UUID(seen.world.subject.id)]
    for identifier in gone:  # the transaction is rolled back
        row = session.get_one(Snapshot, identifier)
        row.phase, row.volume = "failed", None
    operation.request = operation.request | {reservations.MERGE_BYTES: 0}
    session.flush()
    return layering.held(session, server.project_id)
