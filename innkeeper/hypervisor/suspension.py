"""A guest at rest: paused, its memory kept in QEMU, or saved, its memory in a file of the host.

Either way `guest.start` wakes it; libvirt restores from the file and then removes it.
"""

from uuid import UUID

import libvirt

from innkeeper.errors import PermanentError
from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.power import PowerState, from_state


class GuestOff(PermanentError):
    """The guest is off: it has no memory that could be kept."""

    status = 409
    slug = "guest-off"
    title = "Guest off"


@translated()
def pause(conn: libvirt.virConnect, server_id: UUID) -> None:
    """See that the guest stands still, and keeps its memory on the host; fine when it does.

    Raises:
        DomainAbsent: there is no domain.
        GuestOff: it does not run.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    state = from_state(domain.state()[0])
    if state is PowerState.RUNNING:
        domain.suspend()
    elif state is not PowerState.PAUSED:
        raise GuestOff(f"{domain.name()} is {state}: it cannot be paused. Start it first.")


@translated()
def save(conn: libvirt.virConnect, server_id: UUID) -> None:
    """See that the guest's memory is on the host's disk and QEMU has ended; fine when it has.

    libvirt wakes the guest as it was, should there be no room for the file.

    Raises:
        DomainAbsent: there is no domain.
        GuestOff: it does not run, and nothing of it was saved.
        PoolFull: no room; the guest runs on.
    """
    domain = conn.lookupByUUIDString(str(server_id))
    state = from_state(domain.state()[0])
    if state in {PowerState.RUNNING, PowerState.PAUSED}:
        # Paused by us or not: after the restore it runs.
        domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)
    elif not domain.hasManagedSaveImage():
        raise GuestOff(f"{domain.name()} is {state}: it cannot be saved. Start it first.")


@translated()
def is_saved(conn: libvirt.virConnect, server_id: UUID) -> bool:
    """Tell whether a saved memory waits to be restored.

    Raises:
        DomainAbsent: there is no domain.
    """
    return bool(conn.lookupByUUIDString(str(server_id)).hasManagedSaveImage())
