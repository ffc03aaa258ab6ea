"""Taking a device out of a guest that runs: the guest is asked, and lets go when it does."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable

import libvirt

from innkeeper.hypervisor.errors import HypervisorRefused, StateChanged, translated

_POLL_SECONDS = 0.2
_AGAIN_SECONDS = 5.0  # a guest that was still booting has not heard the first time
_PENDING = "in the process of unplug"


def take_out(
    domain: libvirt.virDomain,
    find: Callable[[libvirt.virDomain], ET.Element | None],
    seconds: float,
) -> bool:
    """Ask a guest to let go of the device that `find` finds, until it is gone.

    Returns whether it was within `seconds`.
    """
    deadline, ask_at = time.monotonic() + seconds, 0.0
    while (device := find(domain)) is not None:
        if time.monotonic() > deadline:
            return False
        if time.monotonic() >= ask_at:
            _ask(domain, device)
            ask_at = time.monotonic() + _AGAIN_SECONDS
        else:
            time.sleep(_POLL_SECONDS)
    return True


def _ask(domain: libvirt.virDomain, device: ET.Element) -> None:
    try:
        with translated():
            document = ET.tostring(device, encoding="unicode")
            domain.detachDeviceFlags(document, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    except StateChanged:  # gone, or the guest is off: look again
        pass
    except HypervisorRefused as refusal:
        if _PENDING not in str(refusal):
            raise
