"""Networks and kept addresses: the same on the test driver and on a real libvirt."""

from ipaddress import IPv4Address
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from innkeeper.hypervisor import network
from innkeeper.hypervisor.errors import NameTaken, NetworkAbsent
from innkeeper.hypervisor.network import DhcpEntry

if TYPE_CHECKING:
    from tests.contract.conftest import Host

on_the_lab = pytest.mark.parametrize(
    "host", [pytest.param("lab", marks=pytest.mark.lab)], indirect=True
)


MAC = "52:54:00:00:0a:01"
OTHER_MAC = "52:54:00:00:0a:02"


def test_ensuring_a_network_twice_changes_nothing(host: "Host") -> None:
    name, bridge = f"innkeeper-{uuid4().hex[:8]}", f"ik-{uuid4().hex[:8]}"
    for _ in range(2):
        network.ensure_network(host.conn, name, bridge, "10.99.8.1/24")
    found = host.conn.networkLookupByName(name)
    assert found.isActive()
    assert found.autostart()
    assert "<forward mode='open'/>" in found.XMLDesc(0)
    with pytest.raises(NameTaken, match="another bridge or address"):
        network.ensure_network(host.conn, name, bridge, "10.99.9.1/24")


def test_an_address_is_kept_once(host: "Host", project_network: str) -> None:
    for _ in range(2):
        network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    kept = [DhcpEntry(MAC, IPv4Address("10.99.7.5"), "web")]
    assert network.dhcp_hosts(host.conn, project_network) == kept


def test_a_card_can_change_address_and_name(host: "Host", project_network: str) -> None:
    network.ensure_dhcp_host(host.conn, project_network, MAC.upper(), "10.99.7.5", "web")
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.6", "db")
    kept = [DhcpEntry(MAC, IPv4Address("10.99.7.6"), "db")]
    assert network.dhcp_hosts(host.conn, project_network) == kept


def test_what_another_card_left_gives_way(host: "Host", project_network: str) -> None:
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    for _ in range(2):
        network.ensure_dhcp_host(host.conn, project_network, OTHER_MAC, "10.99.7.5", "web")
    (kept,) = network.dhcp_hosts(host.conn, project_network)
    assert (kept.mac, str(kept.ip), kept.hostname) == (OTHER_MAC, "10.99.7.5", "web")


def test_two_cards_of_one_hostname_both_keep_their_address(
    host: "Host", project_network: str
) -> None:
    for _ in range(2):
        network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
        network.ensure_dhcp_host(host.conn, project_network, OTHER_MAC, "10.99.7.6", "web")
    kept = {entry.mac: str(entry.ip) for entry in network.dhcp_hosts(host.conn, project_network)}
    assert kept == {MAC: "10.99.7.5", OTHER_MAC: "10.99.7.6"}


def test_removing_tolerates_absence(host: "Host", project_network: str) -> None:
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    network.ensure_dhcp_host(host.conn, project_network, OTHER_MAC, "10.99.7.6", "db")
    for _ in range(2):
        network.remove_dhcp_host(host.conn, project_network, MAC.upper())
    assert [e.mac for e in network.dhcp_hosts(host.conn, project_network)] == [OTHER_MAC]
    network.remove_dhcp_host(host.conn, "no-such-network", MAC)


def test_an_inactive_network_keeps_addresses_too(host: "Host", project_network: str) -> None:
    found = host.conn.networkLookupByName(project_network)
    found.destroy()
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    found.create()
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    assert len(network.dhcp_hosts(host.conn, project_network)) == 1
    network.remove_dhcp_host(host.conn, project_network, MAC)
    assert network.dhcp_hosts(host.conn, project_network) == []


@on_the_lab
def test_what_one_definition_lacks_is_mended(host: "Host", project_network: str) -> None:
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    found = host.conn.networkLookupByName(project_network)
    found.update(2, 4, -1, f"<host mac='{MAC}' name='web' ip='10.99.7.5'/>", 1)
    assert MAC not in found.XMLDesc(0)
    network.ensure_dhcp_host(host.conn, project_network, MAC, "10.99.7.5", "web")
    assert MAC in found.XMLDesc(0)


def test_a_new_network_has_no_leases(host: "Host", project_network: str) -> None:
    assert network.leases(host.conn, project_network) == []


def test_an_absent_network_is_named(host: "Host") -> None:
    with pytest.raises(NetworkAbsent, match="no-such-network"):
        network.ensure_dhcp_host(host.conn, "no-such-network", MAC, "10.99.7.5", "web")
    with pytest.raises(NetworkAbsent, match="no-such-network"):
        network.dhcp_hosts(host.conn, "no-such-network")
