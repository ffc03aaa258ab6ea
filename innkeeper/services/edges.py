"""The edge of a host as the database wants it, and the moment when the host is told."""

from uuid import UUID

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from innkeeper.contracts import Claim
from innkeeper.db.models import Address, Host, Network, Nic, PortForward
from innkeeper.db.session import exclusive, transaction
from innkeeper.host import edge
from innkeeper.host.channel import open_channel
from innkeeper.host.edge import EdgeRules
from innkeeper.services import journal


def rules(host_id: UUID) -> EdgeRules:
    """Return the networks and open forwards of a host."""
    with transaction() as session:
        return _rules(session, host_id)


def _rules(session: Session, host_id: UUID) -> EdgeRules:
    networks = session.execute(
        select(Network.bridge, Network.cidr, Network.kind)
        .where(Network.host_id == host_id)
        .order_by(Network.cidr)
    ).all()
    forwards = session.execute(
        select(PortForward.port, Address.ip, PortForward.guest_port)
        .join(Nic, and_(Nic.server_id == PortForward.server_id, Nic.position == 0))
        .join(Address, Address.nic_id == Nic.id)
        .where(PortForward.host_id == host_id, PortForward.enabled)
    ).tuples()
    return EdgeRules(
        networks=tuple((row.bridge, row.cidr) for row in networks),
        isolated=tuple(row.bridge for row in networks if row.kind != "project"),
        forwards={port: (ip, guest_port) for port, ip, guest_port in forwards},
    )


def load(host_id: UUID) -> None:
    """Render a host's edge from the database and load it; two at once take turns.

    Raises:
        HostUnreachable, CommandFailed: the old rules are still in place.
    """
    with exclusive(f"edge:{host_id}"):
        with transaction() as session:
            channel, wanted = session.get_one(Host, host_id).channel, _rules(session, host_id)
        edge.load(open_channel(channel), wanted)


def open_forward(held: Claim, host_id: UUID, *, opened: bool) -> None:
    """Open or close the forward of a claim's server and tell the host.

    Raises:
        ClaimLost: the operation was taken over; nothing is changed.
        HostUnreachable, CommandFailed: the wish is committed, the host was not told.
    """
    with transaction() as session:
        journal.hold(session, held)
        session.execute(
            update(PortForward)
            .where(PortForward.server_id == held.server_id, PortForward.host_id == host_id)
            .values(enabled=opened)
        )
    load(host_id)
