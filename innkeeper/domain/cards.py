"""Network cards: how many there may be, where they are plugged in, which MACs may be given."""

import re
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from innkeeper.domain import addressing
from innkeeper.errors import Conflict, InvalidRequest

MOST = 5
"""With the primary one."""
PRIMARY = "primary"
FIRST_SLOT = 0x1B
"""Of the PCI bus: the last ones, which libvirt gives to other devices last."""
LONGEST_BRIDGE = 15
BRIDGE = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$"
_NOT_THEIRS = ("ik-", "virbr")

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")
_LOCAL, _GROUP = 0b10, 0b01


def free_position(taken: Collection[int]) -> int:
    """Return the first place that none of a server's cards has; the primary's is 0.

    Raises:
        Conflict: the server has as many cards as it may.
    """
    free = [position for position in range(1, MOST) if position not in taken]
    if not free:
        raise Conflict(
            f"A server has {MOST} network cards at most: detach one first (`innkeeper nic detach`)."
        )
    return free[0]


def slot(position: int) -> int:
    """Return the PCI slot of a further card: the same live and at the next start.

    So its name in the guest, which Linux makes from the slot, stays what it was.
    """
    return FIRST_SLOT + position


def operators_bridge(name: str) -> str:
    """Return the name of a bridge that an operator allows cards to be on.

    Raises:
        ValueError: it is one of ours or of libvirt's, where tenants are kept apart.
    """
    if name.startswith(_NOT_THEIRS):
        raise ValueError(f"{name} is a bridge of Innkeeper's or libvirt's own networks")
    return name


def own_mac(text: str) -> str:
    """Return a MAC that somebody chose, in lower case.

    Raises:
        ValueError: it is not one that one may give: unicast, and locally administered.
    """
    mac = text.lower()
    if not _MAC.fullmatch(mac):
        raise ValueError(f"'{text}' is no MAC such as 52:54:00:12:34:56")
    if int(mac[:2], 16) & (_LOCAL | _GROUP) != _LOCAL:
        raise ValueError(
            f"{mac} is a vendor's or a group's: its first octet has to be locally administered and "
            "unicast, as 02, 52 or fe"
        )
    return mac


def require_address(cidr: str, wanted: str, taken: Collection[str]) -> str:
    """Return the address that was asked for.

    Raises:
        InvalidRequest: it is not one of the network's hosts, or is the network's own.
        Conflict: somebody has it.
    """
    network, address = IPv4Network(cidr), IPv4Address(wanted)
    reserved = {network.network_address, network.broadcast_address, network[1]}
    if address not in network or address in reserved:
        raise InvalidRequest(
            f"{wanted} is no address for a card on {cidr}: ask for one of "
            f"{network[2]} to {network[-2]}, or leave it out."
        )
    if wanted in taken:
        raise Conflict(f"{wanted} is taken on {cidr}: ask for another one, or leave it out.")
    return wanted


def address_on(cidr: str, wanted: str | None, taken: Collection[str]) -> str:
    """Return the address that was asked for, else the lowest free one.

    Raises:
        InvalidRequest, Conflict: what was asked for cannot be had.
        AddressesExhausted: the network is full.
    """
    if wanted is None:
        return addressing.free_address(cidr, taken)
    return require_address(cidr, wanted, taken)
