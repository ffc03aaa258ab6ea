"""What further network cards are plugged into on a host: networks of ours, bridges of its own.

The row of an isolated network comes with its first card on a host. It goes when no server with a
card there is on that host, or on its way, and no shelved one keeps an address on it. Networks of
one name have one CIDR on all hosts, so that a card can come with its address.
"""

from collections.abc import Collection
from ipaddress import IPv4Interface
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.orm import Session, aliased

from innkeeper.db.models import (
    Address,
    Host,
    Network,
    Nic,
    Operation,
    OperationStep,
    Project,
    Server,
)
from innkeeper.domain import addressing, naming
from innkeeper.domain.quotas import NetworkAmounts, require_within
from innkeeper.errors import Conflict, InvalidRequest
from innkeeper.services import reservations
from innkeeper.settings import settings

ISOLATED = "isolated"


def further(session: Session, server: Server) -> list[Nic]:
    """Return the further cards of a server, in their order."""
    of_server = select(Nic).where(Nic.server_id == server.id, Nic.position > 0)
    return list(session.scalars(of_server.order_by(Nic.position)))


def in_use(but: Collection[UUID] = ()) -> ColumnElement[bool]:
    """Return what is true of a network that a card needs on its host, now or in a moment.

    That is one of a server that is there, or that moves there or from there; `but` are the ids of
    cards that do not count. Nor do those of a server that is giving the network up on its way: of
    several that leave at once each would leave it to the others.
    """
    theirs = aliased(Network)
    moves = Server.other_host_id.is_not(None)
    here = and_(theirs.id == Network.id, Server.placed, or_(moves, ~_leaves()))
    beside = and_(
        ~_leaves(),
        Server.other_host_id == Network.host_id,
        theirs.project_id == Network.project_id,
        theirs.kind == Network.kind,
        theirs.cidr == Network.cidr,
    )
    cards = (
        select(Nic.id)
        .join(Server, Server.id == Nic.server_id)
        .join(theirs, theirs.id == Nic.network_id)
        .where(or_(here, beside), Nic.id.not_in(but))
    )
    return cards.correlate(Network).exists()


def _leaves() -> ColumnElement[bool]:
    """Return what is true of a server that has begun to clear, or undo, the networks of a host.

    That is committed before it looks whether others need them, so who looks last sees all others
    gone. The host is the one that a shelving leaves, or an unshelving that is undone; of the two of
    a migration the one that is not, or not any more, the server's own.
    """
    undone = OperationStep.state.in_(["undoing", "undone"])
    begun = select(OperationStep.name).where(
        OperationStep.operation_id == Server.operation_id,
        or_(
            OperationStep.name == "clear-networks",
            and_(OperationStep.name == "make-networks", undone),
        ),
    )
    return begun.correlate(Server).exists()


def needed(session: Session, network: Network, but: Collection[UUID] = ()) -> bool:
    """Tell whether a card, other than those, needs a network on its host."""
    used = select(Network.id).where(Network.id == network.id, in_use(but))
    return session.scalar(used) is not None


def drop_unused(session: Session, network: Network, but: Collection[UUID] = ()) -> bool:
    """Delete the row of an isolated network that is not on its host, unless a card needs it.

    The caller holds its row. Cards of shelved servers keep it: their addresses are on it.
    """
    if network.kind != ISOLATED or network.substrate_fingerprint is not None:
        return False
    kept = select(Nic.id).where(Nic.network_id == network.id).limit(1)
    if session.scalar(kept) or needed(session, network, but):
        return False
    session.delete(network)
    session.flush()
    return True


def on_host(session: Session, network: Network, host_id: UUID) -> Network | None:
    """Return a network as it is on a host: itself, or the one there to which its cards move."""
    if network.host_id == host_id:
        return network
    return session.scalar(
        select(Network).where(
            Network.project_id == network.project_id,
            Network.host_id == host_id,
            Network.kind == network.kind,
            Network.cidr == network.cidr,
        )
    )


def held(session: Session, project_id: UUID, without: Collection[UUID] = ()) -> NetworkAmounts:
    """Return how many isolated networks a project's cards are on; `without` some of them."""
    return NetworkAmounts(len(_labels(session, project_id, without)))


def _labels(session: Session, project_id: UUID, without: Collection[UUID] = ()) -> set[str]:
    rows = session.scalars(
        select(Network.label)
        .join(Nic, Nic.network_id == Network.id)
        .where(
            Network.project_id == project_id,
            Network.kind == ISOLATED,
            Nic.id.not_in(without),
        )
    )
    return {label for label in rows if label is not None}


def isolated(session: Session, server: Server, host: Host, label: str) -> Network:
    """Return a project's isolated network of that name on a host, made if it is new there.

    The caller holds the locks of the project and of the hosts.

    Raises:
        QuotaExceeded: the project has as many as it may.
        AddressesExhausted: there is no CIDR left for it.
    """
    if label not in _labels(session, server.project_id):
        limit = session.get_one(Project, server.project_id).quota.isolated_networks
        used = held(session, server.project_id)
        require_within(NetworkAmounts(limit), used, NetworkAmounts(1))
    known = select(Network).where(
        Network.project_id == server.project_id,
        Network.kind == ISOLATED,
        Network.label == label,
    )
    here = known.where(Network.host_id == host.id).with_for_update()  # so that nobody forgets it
    if (found := session.scalar(here)) is not None:
        return found
    named = session.scalar(select(func.min(known.subquery().c.cidr)))
    taken = session.scalars(select(Network.cidr)).all()
    cidr = named or addressing.free_network(settings().guest_networks, taken)
    return _make(session, server.project_id, host.id, label, cidr)


def _make(session: Session, project_id: UUID, host_id: UUID, label: str, cidr: str) -> Network:
    network = Network(
        project_id=project_id,
        host_id=host_id,
        name=naming.isolated_name(project_id, label),
        bridge=naming.bridge_name(project_id, host_id, label),
        cidr=cidr,
        kind=ISOLATED,
        label=label,
    )
    session.add(network)
    session.flush()
    return network


def require_allowed(host: Host, wire: str) -> None:
    """See that an operator lets cards be on a host's bridge.

    Raises:
        InvalidRequest: it tells which bridges may be used.
    """
    if wire in host.bridges:
        return
    allowed = ", ".join(host.bridges) or "none"
    raise InvalidRequest(
        f"Host {host.name} does not allow network cards on bridge {wire} (allowed: {allowed}): "
        f"its operator can (`innkeeper host bridges {host.name} {wire}`)."
    )


def require_unused(session: Session, host: Host, wire: str, address: str | None) -> None:
    """See that no card of ours on a host's bridge was given the same address.

    Raises:
        Conflict: one was.
    """
    if _is_taken(session, host, wire, address):
        raise Conflict(f"{address} is taken on bridge {wire} of {host.name}: ask for another one.")


def _is_taken(
    session: Session, host: Host, wire: str | None, address: str | None, own: UUID | None = None
) -> bool:
    """Tell whether a card of another server, there or on its way there, has that address."""
    if address is None:
        return False
    there = or_(Server.host_id == host.id, Server.other_host_id == host.id)
    beside = select(Nic.static).join(Server, Server.id == Nic.server_id)
    beside = beside.where(Nic.bridge == wire, there)
    if own is not None:
        beside = beside.where(Server.id != own)
    given = [row["address"] for row in session.scalars(beside) if row.get("address")]
    return IPv4Interface(address).ip in {IPv4Interface(one).ip for one in given}


def objections(session: Session, server: Server, host: Host) -> list[str]:
    """Return why a host cannot give a server's further cards what they are plugged into."""
    found = [_objection(session, server, host, nic) for nic in further(session, server)]
    return [why for why in found if why]


def _objection(session: Session, server: Server, host: Host, nic: Nic) -> str | None:
    if nic.bridge is not None:
        if nic.bridge not in host.bridges:
            return f"no bridge {nic.bridge} here for its network card {nic.name}"
        address = nic.static.get("address")
        if _is_taken(session, host, nic.bridge, address, server.id):
            return f"{address} of its network card {nic.name} is taken on bridge {nic.bridge} here"
        return None
    network = session.get_one(Network, nic.network_id)
    if network.kind != ISOLATED or network.host_id == host.id:
        return None
    in_the_way = session.scalar(
        select(Network)
        .where(Network.host_id == host.id)
        .where(or_(Network.name == network.name, Network.cidr == network.cidr))
        .where(or_(Network.name != network.name, Network.cidr != network.cidr))
        .limit(1)
    )
    if in_the_way is None:
        return None
    return (
        f"its network card {nic.name} has an address on {network.cidr}, but {network.label} here "
        f"is {in_the_way.cidr}"
        if in_the_way.name == network.name
        else f"{network.cidr} of its network card {nic.name} is another network here"
    )


def reserve_beside(session: Session, server: Server, host_id: UUID) -> None:
    """See that a host has a row for each network of a server's further cards.

    The caller holds the hosts' locks, and knows of no objection.
    """
    for nic in further(session, server):
        _ensure_on(session, server, nic, host_id)


def _ensure_on(session: Session, server: Server, nic: Nic, host_id: UUID) -> Network | None:
    """Return the network of a card as it is on a host; made if it is an isolated one."""
    if nic.network_id is None:
        return None
    network = session.get_one(Network, nic.network_id)
    if network.kind != ISOLATED:
        return reservations.network_on(session, server, host_id)
    there = on_host(session, network, host_id)
    if there is not None:  # so that nobody forgets it; None: somebody just did
        there = session.get(Network, there.id, with_for_update=True)
    return there or _make(session, network.project_id, host_id, network.label or "", network.cidr)


def move(session: Session, server: Server, host_id: UUID) -> None:
    """Have a server's further cards be, with their addresses, on the networks of a host."""
    for nic in further(session, server):
        there = _ensure_on(session, server, nic, host_id)
        if there is None or there.id == nic.network_id:
            continue
        old = session.get_one(Network, nic.network_id)
        nic.network_id = there.id
        for address in session.scalars(select(Address).where(Address.nic_id == nic.id)):
            address.network_id = there.id
        session.flush()
        drop_unused(session, old)


def settle(session: Session, operation: Operation, server: Server) -> None:
    """Forget networks that a migration which ended needed on the other of its two hosts."""
    for side in operation.request.get("sides", ()):
        for nic in further(session, server):
            network = session.get(Network, nic.network_id) if nic.network_id else None
            other = on_host(session, network, UUID(side)) if network else None
            if other is None or other is network:
                continue
            if (held_row := session.get(Network, other.id, with_for_update=True)) is not None:
                drop_unused(session, held_row)


def neighbours(session: Session, server: Server) -> dict[str, tuple[str, ...]]:
    """Return the servers that a server meets on isolated networks, by the name of its card."""
    found = {}
    for nic in further(session, server):
        others = (
            select(Server.name)
            .join(Nic, Nic.server_id == Server.id)
            .join(Network, Network.id == Nic.network_id)
            .where(
                Nic.network_id == nic.network_id,
                Network.kind == ISOLATED,
                Server.placed,
                Server.id != server.id,
            )
        )
        found[nic.name] = tuple(session.scalars(others.distinct().order_by(Server.name)))
    return found
