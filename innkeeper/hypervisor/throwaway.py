"""Guests that are booted to see that they boot: transient domains that end with whoever looks."""

from uuid import UUID

import libvirt

from innkeeper.hypervisor import guest
from innkeeper.hypervisor.errors import translated


@translated()
def boot(conn: libvirt.virConnect, xml: str) -> None:
    """Start a domain that libvirt forgets when it ends, and ends when this connection is closed.

    So it does not outlive a killed caller. The test driver knows no such end: there it does.

    Raises:
        GuestProcessFailed: QEMU does not start.
        HostOutOfMemory: the host has no memory left for it.
        NameTaken: another domain has the name or the UUID.
    """
    simulated = conn.getType() == "TEST"
    conn.createXML(xml, 0 if simulated else libvirt.VIR_DOMAIN_START_AUTODESTROY)


def remove(conn: libvirt.virConnect, identifier: UUID) -> None:
    """End such a domain at once; fine when there is none."""
    guest.destroy(conn, identifier)
