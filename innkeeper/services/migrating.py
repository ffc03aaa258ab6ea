"""Where a server moves to, and how: decided in the accepting transaction."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.placement import Capacity, Verdict, place, require_chosen
from innkeeper.domain.specs import MigrateRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import (
    attachments,
    binding,
    disks,
    events,
    journal,
    lineage,
    pools,
    reservations,
    resizing,
    shelving,
)
from innkeeper.services.resizing import PowerCycleNeeded

HERE = "the server is there already"


def prepare(
    session: Session, server: Server, body: BaseModel, *, dry_run: bool = False
) -> dict[str, Any]:
    """Choose the host that a server moves to, reserve what it takes there, and say how it moves.

    Until the end it takes of both hosts; the quota is not touched. The caller holds the locks of
    project and server. Other verbs need nothing of this.

    Raises:
        Conflict, NoHostFits, NotFound, InvalidRequest, PowerCycleNeeded: nothing was reserved.
    """
    if not isinstance(body, MigrateRequest):
        return {}
    shelving.refuse_layered(session, server)
    runs = server.status == Status.ACTIVE
    if body.mode == "live" and not runs:
        raise InvalidRequest(
            f"'{server.name}' is stopped, so there is nothing to move live: leave the mode out."
        )
    if body.host and not session.scalar(select(Host.id).where(Host.name == body.host)):
        raise NotFound(f"There is no host '{body.host}': see `innkeeper host list`.")
    old = session.get_one(Host, server.host_id)
    if not old.reachable:
        raise Conflict(
            f"{old.name}, where '{server.name}' is, does not answer: nothing can be fetched from "
            "there. Bring it back first."
        )
    wants_live = runs and body.mode != "cold"
    verdict = _judge(session, server, old, body.host, live=wants_live)
    live = wants_live and (verdict.chosen is not None or body.mode == "live")
    if not live and wants_live:
        verdict = _judge(session, server, old, body.host, live=False)
    new = session.get_one(Host, require_chosen(verdict, resizing.waiting_of(server)))
    cycles = runs and not live
    if cycles and not (body.allow_power_cycle or dry_run or resizing.in_window(server)):
        staying = attachments.staying(session, server)
        why = (_obstacle(old, new, staying) if wants_live else None) or "it was asked for cold"
        raise PowerCycleNeeded(
            f"'{server.name}' cannot go to {new.name} while it runs: {why}. Pass allow_power_cycle "
            "(--allow-power-cycle), ask in its maintenance window "
            f"({server.maintenance_window or 'it has none'}), or look at the plan (--dry-run)."
        )
    pools.reserve_beside(session, server, new)
    reservations.reserve_beside(session, server, new)
    binding.reserve_beside(session, server, new.id)
    return {
        reservations.GROUND_BYTES: 0 if live else _ground_bytes(session, server),
        "verdict": verdict.as_dict(),
        "sides": [str(old.id), str(new.id)],
        "live": live,
        "pauses": live and old.virt_type == "qemu",  # see `hypervisor.migration.migrate`
        "window": server.maintenance_window if cycles and not body.allow_power_cycle else None,
    }


def switch_host(held: Claim) -> None:
    """Make the host that a server moves to its own, and pass the point of no return, in one.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        leaving = disks.depart(session, held)
        if leaving is None:
            return
        operation, server = leaving
        names = [
            session.get_one(Host, host_id).name
            for host_id in (server.host_id, server.other_host_id)
        ]
        pools.change_sides(session, server)
        reservations.change_sides(session, server)
        binding.move(session, server, UUID(operation.request["sides"][1]))
        disks.arrive(session, server)
        events.record(
            session,
            "server.moved",
            actor=operation.actor,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=operation.id,
            before={"host": names[0]},
            after={"host": names[1]},
        )


def tell_silence(held: Claim, reason: str) -> None:
    """Tell, as an event, of a guest that answered before it moved live, and does not any more.

    It may have come to harm on the way, and there is no way back: somebody has to look at it.

    Raises:
        ClaimLost: the operation was taken over.
    """
    with transaction() as session:
        operation = journal.hold(session, held)
        server = session.get_one(Server, held.server_id)
        events.record(
            session,
            "server.silent-since-move",
            actor=operation.actor,
            project_id=server.project_id,
            server_id=server.id,
            operation_id=operation.id,
            reason=f"Its guest agent answered before. {reason} If it hangs, reboot it hard "
            f"(`innkeeper server reboot {server.name} --hard`).",
        )


def _judge(
    session: Session, server: Server, old: Host, wanted: str | None, *, live: bool
) -> Verdict:
    demand = shelving.demand_of_all(session, server)
    if not live:
        beside = -(-_ground_bytes(session, server) // (1 << 30))
        demand = replace(demand, disk_gib=demand.disk_gib + beside)
    hosts = [
        _judged(session, server, old, capacity, wanted, live=live)
        for capacity in reservations.capacities(session, lock=True)
    ]
    return place(demand, hosts)


def _ground_bytes(session: Session, server: Server) -> int:
    """Return what a linked clone brings along of its source's disk, at most, for its copy to take.

    Afterwards that is a disk of the size that it has, and is counted with, all the time.
    """
    return sum(layer.size_bytes for layer in lineage.ground(session, server.id))


def _judged(
    session: Session,
    server: Server,
    old: Host,
    capacity: Capacity,
    wanted: str | None,
    *,
    live: bool,
) -> Capacity:
    """Return a host with what this server, as it is to move, has against it."""
    found = shelving.judged(session, server, capacity, wanted)
    if capacity.host_id == old.id:
        return replace(found, objections=(HERE,))
    obstacle = None
    if live:
        new, staying = session.get_one(Host, capacity.host_id), attachments.staying(session, server)
        obstacle = _obstacle(old, new, staying)
    return replace(found, objections=(*found.objections, obstacle)) if obstacle else found


def _obstacle(old: Host, new: Host, staying: list[str]) -> str | None:
    """Say why a running guest cannot go from one host to another."""
    if "test" in {old.virt_type, new.virt_type}:
        return "a simulated guest cannot move while it runs"
    if old.virt_type != new.virt_type:
        return f"its guests run under {new.virt_type}, not {old.virt_type}: not live"
    if staying:
        return f"QEMU sends no guest with vmdk disks ({', '.join(staying)}): not live"
    return None
