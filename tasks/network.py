"""The networks of a host: the guest's DHCP entries."""

from innkeeper.domain.steps import ArtifactKind
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import network
from innkeeper.hypervisor.connection import connect
from innkeeper.services import leases
from innkeeper.services.blueprint import Blueprint
from tasks.step import step


def _lease(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.LEASE, b.mac)]


def tell(b: Blueprint, name: str, mac: str, ip: str, hostname: str) -> str:
    """Tell a network's DHCP server which address a card of the guest gets."""
    connection = connect(b.host.uri)
    network.ensure_dhcp_host(connection, name, mac, ip, hostname)
    for lease in network.leases(connection, name):
        if lease.ip == ip and lease.mac != mac:  # else dnsmasq would give another address
            leases.release(b.host.id, open_channel(b.host.channel), name, lease.ip, lease.mac)
    return f"{ip} for {mac}"


def forget(b: Blueprint, name: str, mac: str, ip: str) -> str:
    """Remove the DHCP entry of a card and end its lease."""
    network.remove_dhcp_host(connect(b.host.uri), name, mac)
    if not b.host.simulated:
        leases.release(b.host.id, open_channel(b.host.channel), name, ip, mac)
    return f"{mac} forgotten"


@step("lease", makes=_lease)
def give_lease(b: Blueprint) -> str:
    """Tell libvirt's DHCP server which address the guest gets."""
    return tell(b, b.network.name, b.mac, b.ip, b.name)


@give_lease.undone_by
def take_lease(b: Blueprint) -> str:
    """Remove the DHCP entry and end the lease."""
    return forget(b, b.network.name, b.mac, b.ip)


@step("remove-lease", removes=_lease, on_host=True)
def remove_lease(b: Blueprint) -> str:
    """Remove the DHCP entry."""
    return take_lease(b) or ""
