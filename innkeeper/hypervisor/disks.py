"""Data disks of a domain while it runs: plugged in, taken out, grown.

A disk is known by its serial number. What the domain is defined with is not touched here.
"""

import xml.etree.ElementTree as ET
from dataclasses import replace
from uuid import UUID

import libvirt

from innkeeper.errors import PermanentError
from innkeeper.hypervisor.errors import StateChanged, translated
from innkeeper.hypervisor.unplugging import take_out
from innkeeper.hypervisor.xml.domain import DiskSpec, disk_element
from innkeeper.hypervisor.xml.element import parse


class DiskHeld(PermanentError):
    """The guest does not let go of a disk."""

    status = 409
    slug = "disk-held"
    title = "Disk held by the guest"


@translated()
def serials(conn: libvirt.virConnect, server_id: UUID, *, defined: bool = False) -> set[str]:
    """Return the serial numbers of the disks that a domain has now, or is `defined` with.

    Raises:
        DomainAbsent: there is no domain.
    """
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE if defined else 0
    document = parse(_domain(conn, server_id).XMLDesc(flags))
    return {text for disk in document.iterfind("devices/disk") if (text := _serial(disk))}


@translated()
def plug(conn: libvirt.virConnect, server_id: UUID, spec: DiskSpec) -> None:
    """See that a domain that runs has the disk; its guest finds it at once.

    It boots from it at its next start only, if it is defined so.

    Raises:
        StateChanged: it does not run.
        PoolFull, FileMissing, AccessDenied: QEMU cannot open the file.
    """
    domain = _domain(conn, server_id)
    if _plugged(domain, spec.serial or "") is None:
        live = disk_element(replace(spec, boot_order=None))
        domain.attachDeviceFlags(live.render(), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def unplug(conn: libvirt.virConnect, server_id: UUID, serial: str, seconds: float) -> None:
    """See that a domain that runs has not this disk: ask its guest, and wait until it let go.

    Raises:
        DiskHeld: it has not within `seconds`.
    """
    if not take_out(_domain(conn, server_id), lambda domain: _plugged(domain, serial), seconds):
        raise DiskHeld(
            f"The guest has not let go of the disk within {seconds:.0f} s: see that it is up "
            "and does not use it, or stop the server and detach the disk then."
        )


@translated()
def grow(conn: libvirt.virConnect, server_id: UUID, serial: str, capacity_bytes: int) -> None:
    """See that a disk of a domain that runs has at least that size; the guest sees it at once.

    Raises:
        StateChanged: it has no such disk now, or does not run.
    """
    domain = _domain(conn, server_id)
    disk = _plugged(domain, serial)
    target = disk.find("target") if disk is not None else None
    if target is None:
        raise StateChanged("The domain has no such disk now.")
    name = str(target.get("dev"))
    if domain.blockInfo(name, 0)[0] < capacity_bytes:
        domain.blockResize(name, capacity_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


@translated()
def _plugged(domain: libvirt.virDomain, serial: str) -> ET.Element | None:
    if not domain.isActive():
        return None
    found = parse(domain.XMLDesc(0)).iterfind("devices/disk")
    return next((disk for disk in found if _serial(disk) == serial), None)


def _serial(disk: ET.Element) -> str | None:
    return disk.findtext("serial")


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))
