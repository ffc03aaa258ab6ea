"""Snapshots of running servers, and the way back into a saved memory.

libvirt is asked to keep no metadata of them: the database has the tree, and libvirt 9 can neither
revert nor delete external snapshots. Freezing is left to the call itself (QUIESCE), so the guest
stands still for a fraction of a second, and libvirtd thaws it when the caller is dead.
"""

import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import libvirt

from innkeeper.errors import InnkeeperError, PermanentError
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.errors import DomainAbsent, StateChanged, translated
from innkeeper.hypervisor.xml.element import parse
from innkeeper.hypervisor.xml.snapshot import DomainSnapshot, SnapshotDisk, SnapshotMemory

ROOT = "vda"
_AGENT_SECONDS = 10
_CAPTURE_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
)


class SnapshotMissing(PermanentError):
    """libvirt said yes, but what it should have made is not there."""

    status = 500


@translated()
def root_disk(conn: libvirt.virConnect, server_id: UUID) -> Path:
    """Return the file that the server writes to now; when it is off, will write to.

    Raises:
        DomainAbsent: there is no domain.
    """
    # The test driver's running domains never change: there the definition is what counts.
    inactive = libvirt.VIR_DOMAIN_XML_INACTIVE if _is_test(conn) else 0
    return _source(parse(_domain(conn, server_id).XMLDesc(inactive)))


def capture(
    conn: libvirt.virConnect,
    server_id: UUID,
    layer: Path,
    *,
    memory: Path | None = None,
    quiesce: bool = False,
) -> None:
    """Have a running server go on in `layer`, an empty file above its disk, which is frozen then.

    With `memory` the guest stands still until its memory is in that file, and both belong together.

    Raises:
        AgentUnavailable: it should be quiesced, and no agent answers.
        SnapshotMissing: afterwards there is none; never seen, but never to be believed either.
        PoolFull: the memory does not fit.
    """
    domain = _domain(conn, server_id)
    with translated():
        disks = parse(domain.XMLDesc(0)).iterfind("devices/disk/target")
        names = [str(target.get("dev")) for target in disks]
        flags = _CAPTURE_FLAGS
        flags |= 0 if memory else libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        if quiesce:
            flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE
            domain.agentSetResponseTimeout(_AGENT_SECONDS, 0)
        domain.snapshotCreateXML(_document(names, layer, memory), flags)
    if root_disk(conn, server_id) != layer:
        raise SnapshotMissing(
            f"libvirt reported a snapshot, but the server still writes to "
            f"{root_disk(conn, server_id).name}: look into the host's libvirtd log."
        )


def _document(names: list[str], layer: Path, memory: Path | None) -> str:
    return DomainSnapshot(
        memory=SnapshotMemory(snapshot="external" if memory else "no", file=memory),
        disks=tuple(
            SnapshotDisk(name=name, snapshot="external", format="qcow2", source=layer)
            if name == ROOT
            else SnapshotDisk(name=name, snapshot="no")
            for name in names
        ),
    ).render()


def thaw(conn: libvirt.virConnect, server_id: UUID) -> bool:
    """See that the guest's file systems are not frozen; tell whether its agent said so.

    A frozen guest answers its agent, so one that does not answer has nothing to thaw.
    """
    if _is_test(conn):
        return False
    try:
        if not guest.agent_ping(conn, server_id):
            return False
        with translated():
            _domain(conn, server_id).fsThaw()
    except InnkeeperError:  # no agent after all, one that cannot freeze, or not running any more
        return False
    return True


@translated()
def restore(conn: libvirt.virConnect, memory: Path, layer: Path, network: str) -> None:
    """Have the server go on from a memory file, with `layer` as its disk. It has to be off.

    The memory may be from another host: what lies beside the layer here, and the `network`, take
    the place of what they were there. Of the host's CPUs, and as its soft limit of memory, it gets
    what it is defined with today.

    Raises:
        FileMissing: there is no such memory file.
        StateChanged: it is not off.
    """
    secure = libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
    saved = parse(conn.saveImageGetXMLDesc(str(memory), secure))
    for disk in saved.iterfind("devices/disk"):
        for stale in disk.findall("backingStore"):  # libvirt would believe it
            disk.remove(stale)
        target, source = disk.find("target"), disk.find("source")
        if target is not None and source is not None:
            root = target.get("dev") == ROOT
            beside = layer.with_name(Path(str(source.get("file"))).name)
            source.set("file", str(layer if root else beside))
            source.attrib.pop("index", None)
    for source in saved.iterfind("devices/interface/source"):
        source.attrib.clear()  # port and bridge are of then and there
        source.set("network", network)
    domain = conn.lookupByUUIDString(saved.findtext("uuid", ""))
    _tune_as(saved, parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
    document = ET.tostring(saved, encoding="unicode")
    conn.restoreFlags(str(memory), document, libvirt.VIR_DOMAIN_SAVE_RUNNING)


@translated()
def wake_on(conn: libvirt.virConnect, server_id: UUID, layer: Path) -> None:
    """Have a guest whose memory was saved go on in `layer` when it is woken.

    libvirt keeps its own idea of the domain with a saved memory, and would start it on the disk
    that it had then. Done twice it is done once; fine when nothing is saved.

    Raises:
        DomainAbsent: there is no domain.
    """
    domain = _domain(conn, server_id)
    if _is_test(conn) or not domain.hasManagedSaveImage():
        return
    saved = parse(domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE))
    disk = _root(saved)
    source = disk.find("source")
    if source is None or source.get("file") == str(layer):
        return
    for stale in disk.findall("backingStore"):  # libvirt would believe it
        disk.remove(stale)
    source.set("file", str(layer))
    source.attrib.pop("index", None)
    domain.managedSaveDefineXML(ET.tostring(saved, encoding="unicode"))


def _tune_as(saved: ET.Element, defined: ET.Element) -> None:
    """Replace what bounded a saved guest then: who changed that since meant it to last."""
    for part in ("cputune", "memtune"):
        for stale in saved.findall(part):
            saved.remove(stale)
        if (fresh := defined.find(part)) is not None:
            saved.append(fresh)


def is_active(conn: libvirt.virConnect, server_id: UUID) -> bool:
    """Tell whether a process has the server's disk open, be it paused."""
    with suppress(DomainAbsent), translated():
        return bool(_domain(conn, server_id).isActive())
    return False


def _root(document: ET.Element) -> ET.Element:
    for disk in document.iterfind("devices/disk"):
        target = disk.find("target")
        if target is not None and target.get("dev") == ROOT and disk.find("source") is not None:
            return disk
    raise StateChanged("The domain has no root disk now.")


def _source(document: ET.Element) -> Path:
    source = _root(document).find("source")
    return Path(str(source.get("file") if source is not None else None))


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))


def _is_test(conn: libvirt.virConnect) -> bool:
    return bool(conn.getType() == "TEST")
