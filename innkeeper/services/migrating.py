"""Where a server moves to, and how: decided in the accepting transaction."""

from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Artifact, Disk, Host, Operation, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.placement import Capacity, Demand, Verdict, place, require_chosen
from innkeeper.domain.specs import MigrateRequest
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import attachments, events, journal, reservations, resizing, shelving
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
    _refuse_what_cannot_move(session, server)
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
    new = session.get_one(Host, require_chosen(verdict))
    cycles = runs and not live
    if cycles and not (body.allow_power_cycle or dry_run or resizing.in_window(server)):
        raise PowerCycleNeeded(
            f"'{server.name}' cannot go to {new.name} while it runs. Pass allow_power_cycle "
            "(--allow-power-cycle), ask in its maintenance window "
            f"({server.maintenance_window or 'it has none'}), or look at the plan (--dry-run)."
        )
    reservations.reserve_beside(session, server, new)
    return {
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
        operation = journal.hold(session, held)
        if operation.request.get(journal.COMMITTED):
            return
        server = session.get_one(Server, held.server_id)
        names = [
            session.get_one(Host, host_id).name
            for host_id in (server.host_id, server.other_host_id)
        ]
        reservations.change_sides(session, server)
        _take_disks(session, server, operation)
        operation.request = operation.request | {journal.COMMITTED: True}
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


def _take_disks(session: Session, server: Server, operation: Operation) -> None:
    """Make a server's data disks the new host's; what the old one has of them is to go.

    A disk's own row tells where it is, an artifact's that there is a copy of it elsewhere: the
    one of the new host ends here, one of the old host begins.
    """
    for disk in attachments.held_by(session, server):
        old, disk.host_id = disk.host_id, server.host_id or disk.host_id
        session.execute(
            delete(Artifact).where(
                Artifact.host_id == disk.host_id,
                Artifact.kind == ArtifactKind.VOLUME,
                Artifact.name == disk.volume,
            )
        )
        session.add(
            Artifact(
                host_id=old,
                server_id=server.id,
                operation_id=operation.id,
                kind=ArtifactKind.VOLUME,
                name=disk.volume,
                state="present",
            )
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


def _refuse_what_cannot_move(session: Session, server: Server) -> None:
    of_server = select(Disk.id).where(Disk.server_id == server.id)
    if session.scalar(of_server.where(Disk.base_snapshot_id.is_not(None)).limit(1)):
        raise Conflict(
            f"'{server.name}' is a linked clone, its disk stands on another server's: flatten it "
            f"first (`innkeeper server flatten {server.name}`)."
        )
    if lie := attachments.bound(session, server):
        raise Conflict(
            f"'{server.name}' has data disks in pools of its host ({', '.join(lie)}), which cannot "
            "move: detach them first (`innkeeper disk detach`)."
        )


def _demand(session: Session, server: Server) -> Demand:
    """Return what a server asks of a host that it comes to, with all that goes along."""
    disks = sum(row.size_gib for row in attachments.held_by(session, server))
    frozen = session.scalar(
        select(func.coalesce(func.sum(Snapshot.size_bytes), 0)).where(
            Snapshot.server_id == server.id, Snapshot.volume.is_not(None)
        )
    )
    demand = resizing.demand_of(server)
    beside = disks + -(-int(frozen or 0) // (1 << 30))
    return replace(demand, disk_gib=demand.disk_gib + beside)


def _judge(
    session: Session, server: Server, old: Host, wanted: str | None, *, live: bool
) -> Verdict:
    demand = _demand(session, server)
    hosts = [
        _judged(session, server, old, capacity, wanted, live=live)
        for capacity in reservations.capacities(session, lock=True)
    ]
    return place(demand, hosts)


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
