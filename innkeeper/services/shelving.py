"""What may go onto the shelf and where it comes back: decided in the accepting transaction."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from innkeeper.db.models import Host, Image, PortForward, Project, Server, Snapshot
from innkeeper.domain.naming import POOL
from innkeeper.domain.placement import Capacity, Demand, place, require_chosen
from innkeeper.domain.quotas import Amounts, require_within
from innkeeper.domain.specs import ShelveRequest, UnshelveRequest
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import (
    attachments,
    binding,
    firmware,
    lineage,
    offers,
    pools,
    reservations,
    resizing,
)

ANOTHER = "another host was asked for"


def prepare(session: Session, server: Server, body: BaseModel) -> dict[str, Any]:
    """Look whether a server may go onto the shelf; reserve what one that leaves it takes.

    For an unshelving the caller holds the project's lock, as for a create. Other verbs need
    nothing of this.

    Raises:
        Conflict: it is a linked clone with snapshots.
        QuotaExceeded, NoHostFits, NotFound: nothing was reserved.
    """
    if isinstance(body, ShelveRequest):
        refuse_layered(session, server)
    return _unshelve(session, server, body) if isinstance(body, UnshelveRequest) else {}


def refuse_layered(session: Session, server: Server) -> None:
    """Refuse to take a linked clone off its host whose snapshots stand on its source, too.

    Its own disk becomes a full one on the way; each of those would have to.

    Raises:
        Conflict: it names them.
    """
    if not lineage.ground(session, server.id):
        return
    kept = select(Snapshot.name).where(
        Snapshot.server_id == server.id, Snapshot.volume.is_not(None)
    )
    if names := session.scalars(kept.order_by(Snapshot.created_at)).all():
        raise Conflict(
            f"'{server.name}' is a linked clone, and its snapshots ({', '.join(names)}) stand on "
            "its source's disk, too: delete them first (`innkeeper snapshot delete`)."
        )


def _unshelve(session: Session, server: Server, body: UnshelveRequest) -> dict[str, Any]:
    quota = session.get_one(Project, server.project_id).quota
    demand = resizing.demand_of(server)
    require_within(  # its place among the servers and its disk were never given back
        Amounts(-1, quota.vcpus, quota.memory_mib, -1),
        reservations.reserved_by_project(session, server.project_id),
        Amounts(0, demand.vcpus, demand.memory_mib, 0),
    )
    if body.host and not session.scalar(select(Host.id).where(Host.name == body.host)):
        raise NotFound(f"There is no host '{body.host}': see `innkeeper host list`.")
    capacities = reservations.capacities(session, lock=True)
    whole = demand_of_all(session, server)
    verdict = place(whole, [judged(session, server, host, body.host) for host in capacities])
    host = session.get_one(Host, require_chosen(verdict, resizing.waiting_of(server)))
    noted = pools.come_back(session, server, host)
    reservations.move(session, server, host)
    binding.move(session, server, host.id)
    size = Demand(server.vcpus, server.memory_mib, server.disk_gib)
    # What it can grow to live is the new host's matter.
    room = resizing.fresh_shape(size, host, server.cpu, server.memory)
    server.max_vcpus, server.max_memory_mib = room.max_vcpus, room.max_memory_mib
    return {"verdict": verdict.as_dict()} | noted


def demand_of_all(session: Session, server: Server) -> Demand:
    """Return what a server asks of a host that it comes to, with snapshots and data disks.

    Without those in further pools: what is asked for those is each host's matter (`judged`).
    """
    usual = [row for row in attachments.held_by(session, server) if row.pool == POOL]
    data = sum(row.size_gib for row in usual)
    frozen = session.scalar(
        select(func.coalesce(func.sum(Snapshot.size_bytes), 0)).where(
            Snapshot.server_id == server.id, Snapshot.volume.is_not(None)
        )
    )
    demand = resizing.demand_of(server)
    beside = data + -(-int(frozen or 0) // (1 << 30))
    return replace(demand, disk_gib=demand.disk_gib + beside)


def judged(session: Session, server: Server, capacity: Capacity, wanted: str | None) -> Capacity:
    """Return a host with what this one server has against it; it brings its own port.

    `wanted` is the name of the only host that was asked for, if one was.
    """
    objections = []
    if wanted not in {None, capacity.name}:
        objections.append(ANOTHER)
    host = session.get_one(Host, capacity.host_id)
    before = session.get(Host, server.host_id) if server.host_id else None
    if before is not None and (before.virt_type == "test") != (host.virt_type == "test"):
        objections.append("one of it and the server is simulated, the other is not")
    if lacks := firmware.objection(session.get_one(Image, server.image_id), host):
        objections.append(lacks)
    objections += offers.against(session, host, server)
    ports = session.scalars(select(PortForward.port).where(PortForward.server_id == server.id))
    taken = session.scalars(
        select(PortForward.port).where(
            PortForward.host_id == host.id,
            PortForward.server_id != server.id,
            PortForward.port.in_(ports.all()),
        )
    ).all()
    objections += [f"another server has its forward port {port} there" for port in taken]
    objections += binding.objections(session, server, host)
    lodging = pools.lodge(session, server, host)
    return replace(
        capacity,
        free_ports=1,
        objections=tuple(objections),
        astray=lodging.astray,
        astray_gib=lodging.astray_gib,
    )
