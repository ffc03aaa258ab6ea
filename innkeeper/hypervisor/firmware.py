"""The firmwares that a host has for its guests."""

import libvirt

from innkeeper.hypervisor.errors import translated
from innkeeper.hypervisor.xml.element import parse


@translated()
def has_uefi(conn: libvirt.virConnect, virt_type: str) -> bool:
    """Tell whether libvirt finds UEFI firmware there for the guests that we define.

    Raises:
        NotSupported: it is libvirt's test driver, which does not tell.
    """
    document = parse(conn.getDomainCapabilities(None, "x86_64", "pc", virt_type, 0))
    values = document.iterfind("os/enum[@name='firmware']/value")
    return any(value.text == "efi" for value in values)
