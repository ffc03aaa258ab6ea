"""What verbs mean for network cards, inside the transaction that accepts or ends them.

A row is written before its card is plugged in and goes after that was taken out, and with it the
address that it holds. The row of an isolated network comes with its first card.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import Address, Host, Network, Nic, Operation, Server
from innkeeper.domain import cards, naming
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import RevertRequest, SnapshotRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.services import binding, layering, reservations
from innkeeper.services.attachments import stands
from innkeeper.services.binding import further
from innkeeper.services.devices import Devices
from innkeeper.services.views import NicView


@dataclass(frozen=True)
class CardBlueprint:
    """A further network card as steps need it: on a network of ours, or on a bridge."""

    id: UUID
    name: str
    position: int
    phase: str
    mac: str
    bridge: str | None
    static: dict[str, Any]
    network_id: UUID | None = None
    network: str | None = None
    ip: str | None = None
    inbound_kb: int | None = None
    outbound_kb: int | None = None

    @property
    def limited(self) -> bool:
        """Tell whether its bandwidth is bounded."""
        return self.inbound_kb is not None or self.outbound_kb is not None

    @property
    def slot(self) -> int:
        """Where on the PCI bus it is."""
        return cards.slot(self.position)


class Cards(Devices[CardBlueprint]):
    """The further cards of a server, in their order; and the operation's own."""

    noun = "network card"


def load(session: Session, operation: Operation, server_id: UUID, host_id: UUID) -> Cards:
    """Return the further cards that a step of an operation sees of a server on a host.

    On the other host of a migration they are on the networks there.
    """
    rows = session.execute(
        select(Nic, Network, Address.ip)
        .outerjoin(Network, Network.id == Nic.network_id)
        .outerjoin(Address, Address.nic_id == Nic.id)
        .where(Nic.server_id == server_id, Nic.position > 0)
        .order_by(Nic.position)
    ).tuples()
    found = tuple(_card(session, nic, network, ip, host_id) for nic, network, ip in rows)
    wanted = operation.request.get("nic_id")
    return Cards(found, next((card for card in found if str(card.id) == wanted), None))


def _card(
    session: Session, nic: Nic, network: Network | None, ip: str | None, host_id: UUID
) -> CardBlueprint:
    there = binding.on_host(session, network, host_id) if network else None
    return CardBlueprint(
        nic.id,
        nic.name,
        nic.position,
        nic.phase,
        nic.mac,
        nic.bridge,
        nic.static,
        there.id if there else None,  # None: it was removed there already
        there.name if there else None,
        ip,
        nic.inbound_kb,
        nic.outbound_kb,
    )


def views(session: Session, ids: Iterable[UUID]) -> dict[UUID, list[NicView]]:
    """Return all cards of servers as people see them, the primary ones first."""
    rows = session.execute(
        select(Nic, Network, Address.ip)
        .outerjoin(Network, Network.id == Nic.network_id)
        .outerjoin(Address, Address.nic_id == Nic.id)
        .where(Nic.server_id.in_(list(ids)))
        .order_by(Nic.position)
    ).tuples()
    found: dict[UUID, list[NicView]] = {}
    for nic, network, ip in rows:
        kind = network.kind if network else "bridge"
        view = {
            "id": nic.id,
            "server_id": nic.server_id,
            "name": nic.name,
            "kind": kind,
            "network": (network.label or network.name) if network else nic.bridge,
            "mac": nic.mac,
            "phase": nic.phase,
            "inbound_kb": nic.inbound_kb,
            "outbound_kb": nic.outbound_kb,
            "address": ip,
        }
        found.setdefault(nic.server_id, []).append(NicView.model_validate(view | nic.static))
    return found


def named(session: Session, server: Server, body: BaseModel) -> Nic | None:
    """Return the card that a request to detach names."""
    return _attached(session, server, body.nic) if isinstance(body, DetachNicRequest) else None


def _attached(session: Session, server: Server, name_or_id: str) -> Nic:
    for row in further(session, server):
        if name_or_id in {row.name, str(row.id)}:
            return row
    if name_or_id == cards.PRIMARY:
        raise InvalidRequest(
            f"The primary card of '{server.name}' carries its address and its forward: it stays "
            "as long as the server."
        )
    raise NotFound(f"'{server.name}' has no card '{name_or_id}': see `innkeeper nic list`.")


def prepare(session: Session, server: Server, body: BaseModel, verb: Verb) -> dict[str, Any]:
    """Check a verb against the server's further cards, reserve, return what its operation notes.

    To attach the caller holds the project's lock, and always the server's.

    Raises:
        Conflict, NotFound, InvalidRequest, AddressesExhausted: nothing was reserved.
    """
    if isinstance(body, AttachNicRequest):
        return _attach(session, server, body)
    if isinstance(body, DetachNicRequest):
        row = _attached(session, server, body.nic)
        network = str(row.network_id) if row.network_id else None
        return {"nic_id": str(row.id), "network_id": network}
    _refuse(session, server, body, verb)
    return {}


def _attach(session: Session, server: Server, body: AttachNicRequest) -> dict[str, Any]:
    rows = further(session, server)
    position = cards.free_position([row.position for row in rows])
    if body.name in {cards.PRIMARY, *(row.name for row in rows)}:
        raise Conflict(f"'{server.name}' has a card '{body.name}' already: choose another name.")
    reservations.capacities(session, lock=True)  # those who take addresses and MACs take turns
    host = session.get_one(Host, server.host_id)
    static: dict[str, Any] = {}
    if body.wire:
        binding.require_allowed(host, body.wire)
        static = body.model_dump(include={"address", "gateway", "dns"}, exclude_none=True)
        binding.require_unused(session, host, body.wire, body.address)
    network = None if body.wire else _network(session, server, host, body)
    nic = Nic(
        id=uuid4(),
        server_id=server.id,
        network_id=network.id if network else None,
        mac=_mac(session, server, body.mac),
        name=body.name,
        position=position,
        phase="attaching",
        bridge=body.wire,
        inbound_kb=body.inbound_kb,
        outbound_kb=body.outbound_kb,
        static=static if body.address else {},
    )
    session.add(nic)
    try:
        session.flush()
        if network:
            _address(session, network, nic, body.address)
    except IntegrityError as error:
        raise Conflict("Somebody else took that MAC or address just now: try again.") from error
    return {"nic_id": str(nic.id), "network_id": str(network.id) if network else None}


def _network(session: Session, server: Server, host: Host, body: AttachNicRequest) -> Network:
    """Return the network that a card is to be on, an isolated one made if it is new."""
    if body.isolated is None:
        return reservations.network_on(session, server, host.id)
    return binding.isolated(session, server, host, body.isolated)


def _mac(session: Session, server: Server, wanted: str | None) -> str:
    if wanted is None:
        derived = [naming.mac_address(server.id, index) for index in range(256)]
        taken = set(session.scalars(select(Nic.mac).where(Nic.mac.in_(derived))))
        return next(mac for mac in derived if mac not in taken)
    if session.scalar(select(Nic.id).where(Nic.mac == wanted).limit(1)):
        raise Conflict(f"A network card has the MAC {wanted} already: leave it out for a free one.")
    return wanted


def _address(session: Session, network: Network, nic: Nic, wanted: str | None) -> None:
    same = select(Network.id).where(Network.cidr == network.cidr)
    taken = session.scalars(select(Address.ip).where(Address.network_id.in_(same))).all()
    ip = cards.address_on(network.cidr, wanted, taken)
    session.add(Address(network_id=network.id, nic_id=nic.id, ip=ip))
    session.flush()


def _refuse(session: Session, server: Server, body: BaseModel, verb: Verb) -> None:
    """Refuse a memory that knows other cards.

    Raises:
        Conflict: it names them.
    """
    memory = isinstance(body, SnapshotRequest) and body.memory
    if isinstance(body, RevertRequest):
        memory = layering.find(session, server, body.snapshot).memory
    names = [row.name for row in further(session, server)] if memory else []
    if names:
        raise Conflict(
            f"'{server.name}' has further network cards ({', '.join(names)}) and cannot {verb} "
            "with its memory: a memory fits only the cards it knows. Detach them first "
            "(`innkeeper nic detach`)."
        )


def settle(session: Session, operation: Operation) -> None:
    """Say of the card of an attachment that was undone what became of it."""
    named_id = operation.request.get("nic_id")
    nic = session.get(Nic, UUID(named_id)) if named_id else None
    if nic is None or operation.verb != Verb.ATTACH_NIC:
        return
    if stands(session, operation, "plug-nic"):  # perhaps: so a detachment is the way out
        nic.phase = "attached"
        return
    if nic.network_id:  # who attaches another card to it has its turn before this, or after
        session.get(Network, nic.network_id, with_for_update=True)
    network = forget(session, nic)
    if network:
        binding.drop_unused(session, network)


def forget(session: Session, nic: Nic) -> Network | None:
    """Delete the row of a card that is nowhere any more, with its address; return its network."""
    network = session.get(Network, nic.network_id) if nic.network_id else None
    session.execute(delete(Address).where(Address.nic_id == nic.id))
    session.delete(nic)
    session.flush()
    return network
