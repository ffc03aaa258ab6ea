"""DHCP leases: an address that a guest left has to be given back, or its successor gets another.

dnsmasq keeps a lease until it expires and will not give a leased address to another MAC, whatever
the host entry says. `dhcp_release` (Debian's dnsmasq-utils) sends the release that the guest did
not send.
"""

import logging
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Network
from innkeeper.db.session import transaction
from innkeeper.host.channel import CommandFailed, HostChannel

logger = logging.getLogger(__name__)


def release(host_id: UUID, channel: HostChannel, network: str, ip: str, mac: str) -> None:
    """End a lease on a host; a host without `dhcp_release` lets it expire (5 minutes).

    Raises:
        HostUnreachable: the host does not answer.
    """
    with transaction() as session:
        bridge = session.scalar(
            select(Network.bridge).where(Network.host_id == host_id, Network.name == network)
        )
    if bridge is None:
        return
    try:
        channel.run(["dhcp_release", bridge, ip, mac]).check()
    except CommandFailed as error:
        logger.warning("the lease of %s stays until it expires: %s", ip, error)
