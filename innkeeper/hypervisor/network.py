"""Networks and the addresses that their DHCP service keeps for our servers."""

import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Interface

import libvirt

from innkeeper.hypervisor.errors import (
    NameTaken,
    NetworkAbsent,
    NotSupported,
    translated,
)
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.network import DhcpHost, DhcpRange, Ip, Network

_log = logging.getLogger(__name__)

# dnsmasq does not give an address to a new card while the old card's lease runs. A short lease
# bounds that wait when an address is used again.
_LEASE_MINUTES = 5


@dataclass(frozen=True)
class DhcpEntry:
    """An address kept for a network card."""

    mac: str
    ip: IPv4Address
    hostname: str | None = None


@dataclass(frozen=True)
class Lease:
    """An address that a network card holds right now."""

    mac: str
    ip: str
    hostname: str | None
    expires: datetime
    client_id: str | None = None


@dataclass(frozen=True)
class _Scope:
    """One of the two definitions of a network: the running one, or the one kept on disk."""

    update: int
    description: int


_LIVE = _Scope(libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, 0)
_CONFIG = _Scope(libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG, libvirt.VIR_NETWORK_XML_INACTIVE)
_ONLY = _Scope(libvirt.VIR_NETWORK_UPDATE_AFFECT_CURRENT, 0)  # the test driver has but one


@translated()
def ensure_network(
    conn: libvirt.virConnect, name: str, bridge: str, gateway_cidr: str, *, isolated: bool = False
) -> None:
    """See that a network of mode `open` exists, is active and starts with the host.

    Args:
        conn: the host.
        name: name of the network.
        bridge: name of its bridge, at most 15 characters.
        gateway_cidr: the host's address with its prefix, "10.64.0.1/24".
        isolated: without a way out, and without names.

    Raises:
        NameTaken: a network of that name exists with another bridge or address.
    """
    gateway = IPv4Interface(gateway_cidr)
    try:
        network = _network(conn, name)
    except NetworkAbsent:
        network = conn.networkDefineXML(_document(name, bridge, gateway, isolated=isolated))
    there = parse(network.XMLDesc(_scopes(network)[-1].description))
    bridges = [found.get("name") for found in there.iterfind("bridge")]
    addresses = [found.get("address") for found in there.iterfind("ip")]
    if bridge not in bridges or str(gateway.ip) not in addresses:
        raise NameTaken(
            f"The network {name} exists with another bridge or address than {bridge} and "
            f"{gateway}: remove it with virsh net-undefine."
        )
    if not network.isActive():
        network.create()
    if not network.autostart():
        network.setAutostart(1)


@translated()
def ensure_dhcp_host(
    conn: libvirt.virConnect, network: str, mac: str, ip: IPv4Address | str, hostname: str
) -> None:
    """Keep an address for a network card, in the running network and for its next start.

    The caller knows who has which address. An entry of another card for this one is what somebody
    left, for instance a deletion while libvirtd was starting the network, and gives way.

    Raises:
        NetworkAbsent: there is no such network.
    """
    live = _network(conn, network)
    wanted = DhcpEntry(mac.lower(), IPv4Address(ip), hostname)
    for scope in _scopes(live):
        _ensure_entry(live, scope, wanted)


@translated()
def remove_dhcp_host(conn: libvirt.virConnect, network: str, mac: str) -> None:
    """Give up the address kept for a network card; fine when the entry or the network is absent."""
    try:
        live = _network(conn, network)
    except NetworkAbsent:
        return
    for scope in _scopes(live):
        for entry in _entries(live, scope):
            if entry.mac == mac.lower():
                _update(live, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, entry, scope)


@translated()
def dhcp_hosts(conn: libvirt.virConnect, network: str) -> list[DhcpEntry]:
    """Return the addresses kept on a network, running and on disk, without doubles.

    Raises:
        NetworkAbsent: there is no such network.
    """
    live = _network(conn, network)
    return list(dict.fromkeys(e for scope in _scopes(live) for e in _entries(live, scope)))


def leases(conn: libvirt.virConnect, network: str) -> list[Lease]:
    """Return the current leases; none with the test driver.

    Raises:
        NetworkAbsent: there is no such network.
    """
    try:
        with translated():
            return [_lease(lease) for lease in _network(conn, network).DHCPLeases()]
    except NotSupported:
        return []


@translated()
def network_names(conn: libvirt.virConnect) -> list[str]:
    """Return the names of all networks of the host, active or not, sorted."""
    return sorted(network.name() for network in conn.listAllNetworks(0))


@translated()
def remove_network(conn: libvirt.virConnect, name: str) -> None:
    """Stop a network and forget it; fine when there is none."""
    try:
        network = _network(conn, name)
    except NetworkAbsent:
        return
    if network.isActive():
        network.destroy()
    if network.isPersistent():
        network.undefine()


@translated()
def _network(conn: libvirt.virConnect, name: str) -> libvirt.virNetwork:
    return conn.networkLookupByName(name)


def _document(name: str, bridge: str, gateway: IPv4Interface, *, isolated: bool) -> str:
    hosts = gateway.network
    return Network(
        name=name,
        bridge=bridge,
        forward=None if isolated else "open",
        dns="no" if isolated else None,
        ip=Ip(
            address=gateway.ip,
            prefix=hosts.prefixlen,
            dhcp_range=DhcpRange(start=hosts[2], end=hosts[-2]),
        ),
    ).render()


def _scopes(network: libvirt.virNetwork) -> list[_Scope]:
    if network.connect().getType() == "TEST":
        return [_ONLY]
    live = [_LIVE] if network.isActive() else []
    return [*live, _CONFIG] if network.isPersistent() else live


def _entries(network: libvirt.virNetwork, scope: _Scope) -> list[DhcpEntry]:
    hosts = parse(network.XMLDesc(scope.description)).iterfind("ip/dhcp/host")
    return [
        DhcpEntry(str(host.get("mac")).lower(), IPv4Address(str(host.get("ip"))), host.get("name"))
        for host in hosts
        if host.get("mac") and host.get("ip")
    ]


def _ensure_entry(network: libvirt.virNetwork, scope: _Scope, wanted: DhcpEntry) -> None:
    entries = _entries(network, scope)
    own = next((entry for entry in entries if entry.mac == wanted.mac), None)
    others = [entry for entry in entries if entry.mac != wanted.mac]
    for stray in [other for other in others if other.ip == wanted.ip]:
        _log.warning("Network %s kept %s for %s", network.name(), stray.ip, stray.mac)
        _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, stray, scope)
        others.remove(stray)
    if wanted.hostname in {other.hostname for other in others} - {None}:
        # libvirt refuses a second entry of the same name. The address matters, the name is extra.
        _log.warning("Network %s has a host %s already", network.name(), wanted.hostname)
        wanted = replace(wanted, hostname=None)
    if own == wanted:
        return
    command = (
        libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY
        if own
        else libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
    )
    _update(network, command, wanted, scope)


def _update(network: libvirt.virNetwork, command: int, entry: DhcpEntry, scope: _Scope) -> None:
    document = DhcpHost(
        mac=entry.mac,
        name=entry.hostname,
        ip=entry.ip,
        lease_minutes=_LEASE_MINUTES,
        lease_unit="minutes",
    ).render()
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    with translated():
        network.update(command, section, -1, document, scope.update)


def _lease(found: dict[str, object]) -> Lease:
    expires = datetime.fromtimestamp(int(str(found["expirytime"])), tz=UTC)
    name, client = found.get("hostname"), found.get("clientid")
    return Lease(
        mac=str(found["mac"]),
        ip=str(found["ipaddr"]),
        hostname=str(name) if name else None,
        expires=expires,
        client_id=str(client) if client else None,
    )
