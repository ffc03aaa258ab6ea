"""The project network of a host: the guest's DHCP entry."""

from innkeeper.domain.steps import ArtifactKind
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import network
from innkeeper.hypervisor.connection import connect
from innkeeper.services import leases
from innkeeper.services.blueprint import Blueprint
from tasks.step import step


def _lease(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.LEASE, b.mac)]


@step("lease", makes=_lease)
def give_lease(b: Blueprint) -> str:
    """Tell libvirt's DHCP server which address the guest gets."""
    connection = connect(b.host.uri)
    network.ensure_dhcp_host(connection, b.network.name, b.mac, b.ip, b.name)
    for lease in network.leases(connection, b.network.name):
        if lease.ip == b.ip and lease.mac != b.mac:  # else dnsmasq would give another address
            channel = open_channel(b.host.channel)
            leases.release(b.host.id, channel, b.network.name, lease.ip, lease.mac)
    return f"{b.ip} for {b.mac}"


@give_lease.undone_by
def take_lease(b: Blueprint) -> str:
    """Remove the DHCP entry and end the lease."""
    network.remove_dhcp_host(connect(b.host.uri), b.network.name, b.mac)
    if not b.host.simulated:
        channel = open_channel(b.host.channel)
        leases.release(b.host.id, channel, b.network.name, b.ip, b.mac)
    return f"{b.mac} forgotten"


@step("remove-lease", removes=_lease, on_host=True)
def remove_lease(b: Blueprint) -> str:
    """Remove the DHCP entry."""
    return take_lease(b) or ""
