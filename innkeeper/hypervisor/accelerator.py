"""Which accelerator a host's guests may use, proved by a guest that runs.

An advertised KVM can hang: on some machines /dev/kvm exists and libvirt offers it, but no guest
ever gets anywhere. So a guest of one boot sector must do something under it, in time.
"""

import logging
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import libvirt

from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.errors import (
    AcceleratorUnusable,
    GuestProcessFailed,
    NotSupported,
    PoolAbsent,
    translated,
)
from innkeeper.hypervisor.transfer import fetch
from innkeeper.hypervisor.xml.devices import Controller, Disk, MemBalloon, Video
from innkeeper.hypervisor.xml.domain import Domain, VirtType
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.system import Cpu, Features, Memory, OperatingSystem, Vcpu

_log = logging.getLogger(__name__)

Accelerator = Literal["kvm", "qemu"]

PROOF_SECONDS = 6.0  # SeaBIOS and one sector take 2 s even under software emulation
_PREFIX = "innkeeper-proof"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-[0-9a-f]+")
_STALE_SECONDS = 120
_FOLDER = Path("/var/lib/libvirt/images")  # where every distribution lets QEMU read and write
_VOLUME = "sector.raw"
_POLL_SECONDS = 0.1
_SECTOR = 512
_DISK_BYTES = 1024 * 1024

# Writes itself to the second sector of its disk, then powers off through the ACPI register that
# SeaBIOS sets up on the `pc` machine. 16-bit code, loaded at 0x7c00 with dl = boot drive.
_CODE = bytes.fromhex(
    "31c0"  # xor ax, ax
    "8ed8"  # mov ds, ax
    "8ec0"  # mov es, ax
    "bb007c"  # mov bx, 0x7c00: what to write is this very sector
    "b80103"  # mov ax, 0x0301: write one sector
    "b90200"  # mov cx, 0x0002: cylinder 0, sector 2
    "b600"  # mov dh, 0: head 0
    "cd13"  # int 0x13
    "ba0406"  # mov dx, 0x0604: PM1a control
    "b80020"  # mov ax, 0x2000: sleep enable, type 0 = soft off
    "ef"  # out dx, ax
    "f4"  # hlt
    "ebfd"  # jmp to hlt
)
_BOOT_SECTOR = _CODE.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def virt_type(
    conn: libvirt.virConnect, accelerator: Literal["auto", "kvm", "qemu"] = "auto"
) -> VirtType:
    """Return the domain type for a host: the setting's, or what `auto` proves.

    The test driver knows only its own type, whatever the setting.
    """
    if conn.getType() == "TEST":
        return "test"
    return prove(conn) if accelerator == "auto" else accelerator


def prove(conn: libvirt.virConnect, within: float = PROOF_SECONDS) -> Accelerator:
    """Return "kvm" if a guest gets something done under KVM within that many seconds, else "qemu".

    Takes milliseconds where libvirt does not offer KVM, and leaves nothing behind.

    Raises:
        TransientError: the host does not answer; nothing is proved.
    """
    with translated():
        offered = _offers_kvm(conn.getCapabilities())
    if not offered:
        return "qemu"
    if boots(conn, "kvm", within):
        return "kvm"
    _log.warning("%s offers KVM, but a guest does not run under it: using emulation", _name(conn))
    return "qemu"


def boots(conn: libvirt.virConnect, accelerator: Accelerator, within: float) -> bool:
    """Say whether a guest of one boot sector writes its mark to its disk within the seconds.

    Raises:
        TransientError: the host does not answer.
    """
    _sweep(conn)
    name = f"{_PREFIX}-{int(time.time())}-{secrets.token_hex(4)}"
    server_id = uuid4()
    try:
        storage.ensure_pool(conn, name, _FOLDER / name)
        content = _BOOT_SECTOR.ljust(_DISK_BYTES, b"\0")
        path = storage.upload(conn, name, _VOLUME, content, "raw")
        with translated():
            conn.createXML(_domain(name, server_id, accelerator, path), 0)
        _await_end(conn, server_id, within)
        return _mark(conn, name) == _BOOT_SECTOR
    except (AcceleratorUnusable, GuestProcessFailed, NotSupported) as error:
        _log.warning("A guest under %s does not start: %s", accelerator, error)
        return False
    finally:
        with suppress(InnkeeperError):  # what stays is swept by the next proof
            guest.destroy(conn, server_id)
        with suppress(InnkeeperError):
            _remove_pool(conn, name)


def _offers_kvm(capabilities: str) -> bool:
    arches = parse(capabilities).iterfind("guest/arch[@name='x86_64']/domain")
    return any(domain.get("type") == "kvm" for domain in arches)


def _domain(name: str, server_id: UUID, accelerator: Accelerator, disk: Path) -> str:
    mode = "host-passthrough" if accelerator == "kvm" else "maximum"
    return Domain(
        type=accelerator,
        name=name,
        uuid=server_id,
        memory=Memory(amount=32),
        vcpu=Vcpu(count=1),
        os=OperatingSystem(arch="x86_64", machine="pc"),
        features=Features(),
        cpu=Cpu(mode=mode, check="none"),
        devices=(
            Disk(format="raw", source=disk, target="vda"),
            Controller(type="usb", model="none"),
            MemBalloon(model="none"),
            Video(),
        ),
    ).render()


def _await_end(conn: libvirt.virConnect, server_id: UUID, within: float) -> None:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and guest.power_state(conn, server_id) is not None:
        time.sleep(_POLL_SECONDS)
    # Whatever it does, it must not write while its disk is read, and its end flushes the disk.
    guest.destroy(conn, server_id)


@translated()
def _mark(conn: libvirt.virConnect, pool: str) -> bytes:
    volume = conn.storagePoolLookupByName(pool).storageVolLookupByName(_VOLUME)
    return fetch(conn, volume, _SECTOR, _SECTOR)


def _remove_pool(conn: libvirt.virConnect, name: str) -> None:
    storage.delete_volume(conn, name, _VOLUME)
    with suppress(PoolAbsent), translated():
        pool = conn.storagePoolLookupByName(name)
        if pool.isActive():
            pool.destroy()
        pool.delete(0)
        pool.undefine()


@translated()
def _sweep(conn: libvirt.virConnect) -> None:
    """Remove what proofs left whose process was killed."""
    for domain in conn.listAllDomains(0):
        if _is_stale(domain.name()):
            guest.destroy(conn, UUID(domain.UUIDString()))
    for pool in conn.listAllStoragePools(0):
        if _is_stale(pool.name()):
            with suppress(InnkeeperError):
                _remove_pool(conn, pool.name())


def _is_stale(name: str) -> bool:
    found = _NAME.fullmatch(name)
    return found is not None and time.time() - int(found.group(1)) > _STALE_SECONDS


def _name(conn: libvirt.virConnect) -> str:
    with translated():
        return str(conn.getHostname())
