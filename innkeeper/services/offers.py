"""What hosts offer beyond numbers, asked before anything is locked, judged under the locks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain import backing, offer, tuning
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.offer import Held, Offer, Pages
from innkeeper.domain.placement import Capacity, Demand
from innkeeper.domain.specs import CloneRequest, ServerRequest
from innkeeper.errors import InvalidRequest, NoHostFits, TransientError
from innkeeper.hypervisor import cpu, memory
from innkeeper.hypervisor.connection import connect
from innkeeper.services.blueprint import HostBlueprint, VirtType

FinePrint = tuple[dict[str, Any], dict[str, Any]]
"""That of the CPU, and that of the memory."""
_OFF = frozenset({Status.STOPPED, Status.SHELVED})
"""Servers that hold huge pages without using them."""


def ask(fine: Mapping[str, Any], made_of: Mapping[str, Any], host_id: UUID | None = None) -> None:
    """Have hosts tell what they offer, if a fine print asks for what not every host can give.

    All hosts that take servers, or the one that is given. What they told is kept with them. Of
    several, one that does not answer keeps what it told before.

    Raises:
        HostUnreachable: the one that was given does not answer.
    """
    if not offer.asks(fine, made_of):
        return
    with transaction() as session:
        which = Host.id == host_id if host_id else (Host.enabled & Host.reachable)
        rows = session.scalars(select(Host).where(which)).all()
        hosts = [
            (row.id, row.uri, cast("VirtType", row.virt_type), row.vcpus, row.memory_mib)
            for row in rows
        ]
        kept = {row.id: Offer.of(row.offer) for row in rows}
    for identifier, uri, virt_type, vcpus, memory_mib in hosts:
        try:
            told = _told(uri, virt_type, vcpus, memory_mib)
            told = _proved(told, kept[identifier], uri, virt_type, made_of)
        except TransientError:
            if host_id:
                raise
            continue
        if told != kept[identifier]:
            with transaction() as session:
                row = session.get(Host, identifier, with_for_update={"key_share": True})
                if row is not None:
                    row.offer = told.as_dict()


def _told(uri: str, virt_type: VirtType, vcpus: int, memory_mib: int) -> Offer:
    """Return what a host says of itself; a simulated one has whatever its size holds."""
    connection = connect(uri)
    nodes = tuple(sorted(cpu.nodes(connection)))
    if virt_type == "test":
        pages = {str(size): Pages(memory_mib // size, memory_mib // size) for size in (2, 1024)}
        return Offer(tuple(range(vcpus)), None, nodes, pages, on_nodes={"0": pages})
    on_nodes = {
        str(node): {str(size): Pages(one.total, one.free) for size, one in there.items()}
        for node, there in memory.pages_on(connection).items()
    }
    sizes = {size for there in on_nodes.values() for size in there}
    return Offer(
        tuple(sorted(cpu.online(connection))),
        tuple(sorted(cpu.models(connection, virt_type))),
        nodes,
        pages=dict.fromkeys(sizes, Pages(0, 0)),
        on_nodes=on_nodes,
    ).within(nodes)


def _proved(
    told: Offer, kept: Offer, uri: str, virt_type: VirtType, made_of: Mapping[str, Any]
) -> Offer:
    """Have a host prove what it does not tell; what it was proved to do is remembered."""
    proved, refused = set(kept.proved), dict(kept.refused)
    for what, part in offer.proofs(made_of).items():
        refused.pop(what, None)
        size = str(part.get("hugepages", ""))
        if what in proved or (size and not told.pages.get(size, Pages(0, 0)).free):
            continue  # without a free page there is nothing to prove it with
        if said := memory.obstacle(connect(uri), virt_type, part):
            refused[what] = said
        else:
            proved.add(what)
    return replace(told, proved=tuple(sorted(proved)), refused=refused)


def objections(
    session: Session,
    host: Host,
    fine: Mapping[str, Any],
    made_of: Mapping[str, Any],
    pages: Mapping[str, int],
    server: Server | None = None,
) -> list[str]:
    """Return what a host that was asked has against a fine print, `pages` of it among that.

    The caller holds the host's lock, so nobody else takes the last pages meanwhile. Of the server
    that is given, what it holds on that host is not held by others.
    """
    if not offer.asks(fine, made_of):
        return []
    told = Offer.of(host.offer)
    found = offer.objections(told, fine, made_of)
    own = dict(server.pages) if server and server.placed and server.host_id == host.id else {}
    more = {size: count for size, count in pages.items() if count > own.get(size, 0)}
    if found or not more:
        return found
    return _shortage(session, host, made_of, more, server)


def _shortage(
    session: Session,
    host: Host,
    made_of: Mapping[str, Any],
    pages: Mapping[str, int],
    server: Server | None,
    *,
    comes: bool = False,
) -> list[str]:
    """Return which huge pages a host has not got; a server that `comes` uses none there yet."""
    told, nodes = Offer.of(host.offer), _bound(made_of)
    found: list[str] = []
    for within in ((), nodes) if nodes else ((),):
        if found:
            break
        there = _held(session, host, server, within)
        there = replace(there, own={}) if comes else there
        where = f" on NUMA node {made_of['nodes']}" if within else ""
        found = offer.page_shortage(told.within(within) if within else told, pages, there, where)
    return found


def wanted(body: ServerRequest | CloneRequest, size: Demand) -> FinePrint:
    """Return the fine print that a new server of this size is to have, of CPU and memory.

    Raises:
        InvalidRequest: it does not fit together, or to the size.
    """
    fine = tuning.merged({}, body.cpu)
    made_of = backing.merged({}, body.memory)
    tuning.require_sound(fine, size.vcpus)
    backing.require_sound(made_of, size.memory_mib)
    return fine, made_of


def judged(session: Session, capacity: Capacity, demand: Demand, fine: FinePrint) -> Capacity:
    """Return a host with what it has against the fine print of a new server."""
    host = session.get_one(Host, capacity.host_id)
    pages = backing.pages(fine[1], demand.memory_mib)
    found = objections(session, host, *fine, pages)
    return replace(capacity, objections=(*capacity.objections, *found))


def against(session: Session, host: Host, server: Server) -> list[str]:
    """Return what a host that was asked has against a server that is to come there.

    With what waits to be changed of it: it will have that at its next start.
    """
    found = objections(session, host, server.cpu, server.memory, server.pages, server)
    if server.pending is None:
        return found
    later = server.pending["after"]
    more = objections(session, host, later["cpu"], later.get("memory", {}), server.pages, server)
    return [*found, *(one for one in more if one not in found)]


def held(session: Session) -> dict[UUID, dict[str, int]]:
    """Return how many huge pages servers hold of each host, by their size in MiB."""
    found: dict[UUID, dict[str, int]] = {}
    for row in session.scalars(select(Server).where(Server.reserved, Server.placed)):
        for host_id in {row.host_id, row.other_host_id} - {None}:
            there = found.setdefault(cast("UUID", host_id), {})
            for size, count in row.pages.items():
                there[size] = there.get(size, 0) + count
    return found


def _bound(made_of: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the NUMA nodes that memory lies on and nowhere else; none: it may lie anywhere."""
    nodes = made_of.get("nodes")
    return tuning.cpus(nodes) if nodes and made_of.get("mode", "strict") == "strict" else ()


def _held(session: Session, host: Host, server: Server | None, nodes: tuple[int, ...] = ()) -> Held:
    """Return what servers hold of a host's huge pages; with nodes, those that are bound to them."""
    rows = session.scalars(
        select(Server).where(
            Server.reserved,
            Server.placed,
            or_(Server.host_id == host.id, Server.other_host_id == host.id),
        )
    )
    used: dict[str, int] = {}
    idle: dict[str, int] = {}
    own: dict[str, int] = {}
    for row in rows:
        bound = _bound(row.memory) or _bound(_later(row))
        if nodes and not (bound and set(bound) <= set(nodes)):
            continue
        off = row.status in _OFF and row.operation_id is None
        if server is not None and row.id == server.id:
            own = {} if off or row.host_id != host.id else backing.pages(row.memory, row.memory_mib)
            continue
        amounts = idle if off else used
        for size, count in row.pages.items():
            amounts[size] = amounts.get(size, 0) + count
    return Held(used, idle, own)


def _later(server: Server) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (server.pending or {"after": {}})["after"].get("memory", {})
    return found


def require(
    session: Session,
    host: Host,
    fine: Mapping[str, Any],
    made_of: Mapping[str, Any],
    pages: Mapping[str, int],
    server: Server,
) -> None:
    """Pass when the host of a server can give it this fine print.

    Raises:
        InvalidRequest: it never can; the sentence says what there is.
        NoHostFits: it has not enough free huge pages.
    """
    if found := objections(session, host, fine, made_of, pages, server):
        ever = not offer.objections(Offer.of(host.offer), fine, made_of)
        refusal = NoHostFits if ever else InvalidRequest
        raise refusal(f"Host {host.name} cannot give this: {'; '.join(found)}.")


def require_told(
    host: HostBlueprint,
    fine: Mapping[str, Any],
    made_of: Mapping[str, Any],
    comes: UUID | None = None,
) -> None:
    """Pass when a host that a server comes to can still give what it could when it was chosen.

    Of a server that `comes`, and does not run there yet, the huge pages are counted, too: others
    than our servers may have taken them meanwhile.

    Raises:
        InvalidRequest: the sentence says what there is.
        NoHostFits: it has not enough free huge pages.
        HostUnreachable: the host does not tell.
    """
    if not offer.asks(fine, made_of):
        return
    ask(fine, made_of, host.id)
    with transaction() as session:
        row = session.get_one(Host, host.id)
        never, found = offer.objections(Offer.of(row.offer), fine, made_of), []
        if comes and not never:
            server = session.get_one(Server, comes)
            found = _shortage(session, row, made_of, server.pages, server, comes=True)
    if never or found:
        refusal = InvalidRequest if never else NoHostFits
        raise refusal(f"Host {host.name} cannot give this: {'; '.join(never or found)}.")
