"""Elements of virtual networks."""

from ipaddress import IPv4Address

from innkeeper.hypervisor.xml.element import Element, attribute, child, children, text


class DhcpRange(Element, tag="range"):
    """Addresses that DHCP may hand out."""

    start: IPv4Address = attribute("start")
    end: IPv4Address = attribute("end")


class DhcpHost(Element, tag="host"):
    """The address that DHCP keeps for one network card."""

    mac: str = attribute("mac")
    name: str | None = attribute("name", default=None)
    ip: IPv4Address = attribute("ip")
    lease_minutes: int | None = attribute("expiry", of="lease", default=None)
    lease_unit: str | None = attribute("unit", of="lease", default=None)


class Ip(Element, tag="ip"):
    """The host's address on a network, and its DHCP service."""

    address: IPv4Address = attribute("address")
    prefix: int = attribute("prefix")
    dhcp_range: DhcpRange | None = child(of="dhcp", default=None)
    dhcp_hosts: tuple[DhcpHost, ...] = children(of="dhcp", default=())


class Network(Element, tag="network"):
    """A virtual network. Mode `open` leaves all packet filtering to the host's edge table.

    Without a mode it is isolated: libvirt lets nothing through, and its DHCP tells of no way out.
    """

    name: str = text(of="name")
    forward: str | None = attribute("mode", of="forward", default="open")
    bridge: str = attribute("name", of="bridge")
    stp: str = attribute("stp", of="bridge", default="off")
    delay: int = attribute("delay", of="bridge", default=0)
    dns: str | None = attribute("enable", of="dns", default=None)
    ip: Ip = child()
