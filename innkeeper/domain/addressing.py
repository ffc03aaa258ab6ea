"""Allocation of guest networks, addresses and forward ports: the lowest free one, always."""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from innkeeper.errors import ForwardPortsExhausted, PermanentError

PREFIX = 24
FIRST_HOST = 10
"""Offsets below are for the gateway (.1) and for what an operator wants to place by hand."""


class AddressesExhausted(PermanentError):
    """A network or the range of networks has no free address left."""

    status = 409
    slug = "addresses-exhausted"
    title = "Addresses exhausted"


def free_network(supernet: str, taken: Collection[str]) -> str:
    """Return the lowest /24 of `supernet` that is not taken.

    Raises:
        AddressesExhausted: every /24 is in use.
    """
    used = set(taken)
    for network in IPv4Network(supernet).subnets(new_prefix=PREFIX):
        if str(network) not in used:
            return str(network)
    raise AddressesExhausted(
        f"All guest networks of {supernet} are in use: set INNKEEPER_GUEST_NETWORKS wider."
    )


def gateway(cidr: str) -> str:
    """Return the address that the host itself has on a guest network."""
    return str(IPv4Network(cidr)[1])


def free_address(cidr: str, taken: Collection[str]) -> str:
    """Return the lowest free guest address of a network.

    Raises:
        AddressesExhausted: the network is full.
    """
    used = {IPv4Address(address) for address in taken}
    for address in islice(IPv4Network(cidr).hosts(), FIRST_HOST - 1, None):
        if address not in used:
            return str(address)
    raise AddressesExhausted(
        f"Network {cidr} has no free address: delete a server or use another project."
    )


def free_port(ports: tuple[int, int], taken: Collection[int]) -> int:
    """Return the lowest free forward port of the inclusive range.

    Raises:
        ForwardPortsExhausted: every port is taken.
    """
    used = set(taken)
    for port in range(ports[0], ports[1] + 1):
        if port not in used:
            return port
    raise ForwardPortsExhausted(
        f"All forward ports {ports[0]}-{ports[1]} of the host are taken: delete a server that "
        "has one, or add a host."
    )
