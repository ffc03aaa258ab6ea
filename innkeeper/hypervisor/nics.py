"""Network cards of a domain while it runs: plugged in and taken out.

A card is known by its MAC. What the domain is defined with is not touched here.
"""

import xml.etree.ElementTree as ET
from functools import partial
from uuid import UUID

import libvirt

from innkeeper.errors import PermanentError
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.unplugging import take_out
from innkeeper.hypervisor.xml.domain import NicSpec, nic_element
from innkeeper.hypervisor.xml.element import parse


class NicHeld(PermanentError):
    """The guest does not let go of a network card."""

    status = 409
    slug = "nic-held"
    title = "Network card held by the guest"


@translated()
def macs(conn: libvirt.virConnect, server_id: UUID, *, defined: bool = False) -> set[str]:
    """Return the MACs of the cards that a domain has now, or is `defined` with.

    Raises:
        DomainAbsent: there is no domain.
    """
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE if defined else 0
    document = parse(_domain(conn, server_id).XMLDesc(flags))
    return {_mac(card) for card in document.iterfind("devices/interface")}


@translated()
def plug(conn: libvirt.virConnect, server_id: UUID, spec: NicSpec) -> None:
    """See that a domain that runs has the card; its guest finds it at once.

    Raises:
        StateChanged: it does not run.
        NetworkAbsent, SubstrateInactive, HypervisorRefused: there is nothing to plug it into.
    """
    domain = _domain(conn, server_id)
    if _plugged(spec.mac, domain) is None:
        domain.attachDeviceFlags(nic_element(spec).render(), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def unplug(conn: libvirt.virConnect, server_id: UUID, mac: str, seconds: float) -> None:
    """See that a domain that runs has not this card: ask its guest, and wait until it let go.

    Raises:
        NicHeld: it has not within `seconds`.
    """
    if not take_out(_domain(conn, server_id), partial(_plugged, mac), seconds):
        raise NicHeld(
            f"The guest has not let go of the network card within {seconds:.0f} s: see that it is "
            "up, or stop the server and detach the card then."
        )


@translated()
def _plugged(mac: str, domain: libvirt.virDomain) -> ET.Element | None:
    if not domain.isActive():
        return None
    found = parse(domain.XMLDesc(0)).iterfind("devices/interface")
    return next((card for card in found if _mac(card) == mac), None)


def _mac(card: ET.Element) -> str:
    element = card.find("mac")
    return str(element.get("address")).lower() if element is not None else ""


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))
