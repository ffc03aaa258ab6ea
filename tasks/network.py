"""The networks of a host: the guest's DHCP entries."""

from innkeeper.domain.naming import card_host
from innkeeper.domain.steps import ArtifactKind
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import network
from innkeeper.hypervisor.connection import connect
from innkeeper.services import leases
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.cards import CardBlueprint
from tasks.step import step


def _lease(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.LEASE, b.mac)]


def _tell(b: Blueprint, name: str, mac: str, ip: str, hostname: str) -> str:
    connection = connect(b.host.uri)
    network.ensure_dhcp_host(connection, name, mac, ip, hostname)
    for lease in network.leases(connection, name):
        if lease.ip == ip and lease.mac != mac:  # else dnsmasq would give another address
            leases.release(b.host.id, open_channel(b.host.channel), name, lease.ip, lease.mac)
    return f"{ip} for {mac}"


def _forget(b: Blueprint, name: str, mac: str, ip: str) -> str:
    network.remove_dhcp_host(connect(b.host.uri), name, mac)
    if not b.host.simulated:
        leases.release(b.host.id, open_channel(b.host.channel), name, ip, mac)
    return f"{mac} forgotten"


def tell(b: Blueprint, card: CardBlueprint) -> str:
    """Tell a network's DHCP server which address a further card of the guest gets."""
    if card.network is None or card.ip is None:
        return "no DHCP of ours"
    return _tell(b, card.network, card.mac, card.ip, card_host(b.name, card.name))


def forget(b: Blueprint, card: CardBlueprint) -> str:
    """Remove the DHCP entry of a further card and end its lease."""
    if card.network is None or card.ip is None:
        return "no DHCP of ours"
    return _forget(b, card.network, card.mac, card.ip)


@step("lease", makes=_lease)
def give_lease(b: Blueprint) -> str:
    """Tell libvirt's DHCP servers which addresses the guest gets, on all its cards."""
    told = [_tell(b, b.network.name, b.mac, b.ip, b.name)]
    return "; ".join(told + [tell(b, card) for card in b.cards.attached])


@give_lease.undone_by
def take_lease(b: Blueprint) -> str:
    """Remove the DHCP entries and end the leases."""
    for card in b.cards.all:
        forget(b, card)
    return _forget(b, b.network.name, b.mac, b.ip)


@step("remove-lease", removes=_lease, on_host=True)
def remove_lease(b: Blueprint) -> str:
    """Remove the DHCP entries."""
    return take_lease(b) or ""
