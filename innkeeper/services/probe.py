"""What a host says about itself before it is registered."""

import socket
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from innkeeper.domain.naming import POOL
from innkeeper.errors import InnkeeperError, PermanentError
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import firmware, storage
from innkeeper.hypervisor.accelerator import virt_type
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent, translated
from innkeeper.services.whereabouts import Place

_GIB = 1 << 30
_SIMULATED_DISK_GIB = 100


class HostNotUsable(PermanentError):
    """A host that should be registered does not answer, or refuses us."""

    slug = "host-not-usable"
    title = "Host not usable"


@dataclass(frozen=True)
class Probe:
    """What was found: size, domain type (kvm, qemu or test), whether guests can boot by UEFI."""

    vcpus: int
    memory_mib: int
    disk_gib: int
    virt_type: str
    uefi: bool


def probe(place: Place, *, accelerator: Literal["auto", "kvm", "qemu"], want_disk: bool) -> Probe:
    """Ask a host for its size and prove its accelerator.

    Raises:
        HostNotUsable: the sentence says why.
    """
    try:
        connection = connect(place.uri)
        with translated():
            _model, memory_mib, vcpus, *_ = connection.getInfo()
        kind = virt_type(connection, accelerator)
        uefi = kind == "test" or firmware.has_uefi(connection, kind)
        disk_gib = _disk_gib(place) if want_disk else 0
    except InnkeeperError as error:
        raise HostNotUsable(f"The host was not added: {error}") from error
    return Probe(int(vcpus), int(memory_mib), disk_gib, kind, uefi)


def own_address() -> str:
    """Return the address of this machine that others reach; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probing:
        try:
            probing.connect(("192.0.2.1", 9))  # TEST-NET-1: only asks for the route
            return str(probing.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def _disk_gib(place: Place) -> int:
    """Return the space that servers may have: what is free where the pool is or will be."""
    if place.simulated:
        return _SIMULATED_DISK_GIB
    try:
        return storage.pool_capacity(connect(place.uri), POOL).free_bytes // _GIB
    except Absent:
        pass
    channel = open_channel(place.channel)
    path = PurePosixPath(place.pool_path)
    for folder in (path, *path.parents):  # the pool's folder is made with the first server
        told = channel.run(["df", "--block-size=1", "--output=avail", "--", str(folder)])
        if told.returncode == 0:
            return int(told.stdout.split()[-1]) // _GIB
    raise HostNotUsable(f"`df` on the host tells nothing about {path}: give the disk's size.")
