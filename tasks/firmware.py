"""What a UEFI guest wrote to its firmware's memory: it goes where the server goes.

A guest that moves while it runs takes it along; of one that is off it is a file of its host.
"""

from innkeeper.domain.naming import nvram_file
from innkeeper.domain.specs import UEFI
from innkeeper.errors import NotFound
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import nvram
from innkeeper.services.blueprint import Blueprint


def has_nvram(b: Blueprint) -> bool:
    """Tell whether the guest has such a memory; simulated hosts keep none."""
    return b.disk_image.firmware == UEFI and not b.host.simulated


def keep_nvram(b: Blueprint) -> None:
    """Keep what is on the host of a guest that is off; it has nothing there before its first start.

    Raises:
        HostUnreachable: the host does not answer.
    """
    if not has_nvram(b):
        return
    try:
        written = open_channel(b.host.channel).read_file(nvram_file(b.domain_name))
    except NotFound:
        written = None
    nvram.keep(b.claim, written)


def leave_nvram(b: Blueprint) -> None:
    """Keep nothing: the guest takes it along, and what was kept before is old."""
    if has_nvram(b):
        nvram.keep(b.claim, None)


def give_nvram(b: Blueprint) -> None:
    """Put what was kept on the host, unless the guest runs there already, or has, and wrote to it.

    Raises:
        HostUnreachable, CommandFailed: the host has it not.
    """
    if b.committed or not has_nvram(b) or (written := nvram.kept(b.server_id)) is None:
        return
    if guest.power_state(connect(b.host.uri), b.server_id) is PowerState.OFF:
        open_channel(b.host.channel).write_file(nvram_file(b.domain_name), written)
