"""A running guest to another host, with its disk: libvirt's live migration, driven from here.

This process stands between both libvirtds (no peer-to-peer), so they need no credentials for each
other. Memory and disk go from QEMU to QEMU. When this process dies, both daemons notice that its
connection is gone: the old one cancels what it sends and its guest runs on, the new one forgets
what had arrived. Who comes later asks both where the guest runs (`look`).
"""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import libvirt

from innkeeper.errors import TransientError
from innkeeper.hypervisor.errors import DomainAbsent, StateChanged, translated
from innkeeper.hypervisor.power import PowerState, from_state
from innkeeper.hypervisor.xml.element import parse

Tell = Callable[[float, str], None]
"""Is told how far it is; may raise to have it aborted."""

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 6 * 3600.0
_FLAGS = libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
# Only the layer that the server writes to: what is beneath it is on the new host already.
_LAYER = libvirt.VIR_MIGRATE_NON_SHARED_INC
_WHOLE = libvirt.VIR_MIGRATE_NON_SHARED_DISK
# A guest that writes faster than is sent is slowed down.
_WHILE_IT_RUNS = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_AUTO_CONVERGE


class MigrationUnfinished(TransientError):
    """Somebody else's migration of the guest does not come to its end."""


@dataclass(frozen=True)
class Side:
    """What a guest does on one of two hosts; None: no domain there.

    `runs` also counts a guest that its host had to pause (a full pool): it was let run there.
    `left` is libvirt's word that it went off here because it goes on elsewhere.
    """

    state: PowerState | None
    runs: bool = False
    left: bool = False
    sending: bool = False


@dataclass(frozen=True)
class Way:
    """How QEMU reaches QEMU: a host's address, or two sockets that both can open."""

    address: str | None = None
    sockets: Path | None = None

    def parameters(self) -> dict[str, str]:
        """Return what libvirt has to know of it."""
        if self.sockets is not None:
            return {
                libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{self.sockets}.memory",
                libvirt.VIR_MIGRATE_PARAM_DISKS_URI: f"unix://{self.sockets}.disks",
            }
        host = f"[{self.address}]" if self.address and ":" in self.address else self.address
        return {libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://{host}"}

    def forget(self) -> None:
        """Remove the sockets, which a QEMU that was killed leaves."""
        if self.sockets is not None:
            for end in ("memory", "disks"):
                self.sockets.with_name(f"{self.sockets.name}.{end}").unlink(missing_ok=True)


def look(conn: libvirt.virConnect, server_id: UUID) -> Side:
    """Return what a guest does on a host, and whether it is being sent from there just now."""
    try:
        with translated():
            domain = conn.lookupByUUIDString(str(server_id))
            state, reason = domain.state()
            job = libvirt.VIR_DOMAIN_JOB_NONE
            if domain.isActive() and conn.getType() != "TEST":  # there nobody is ever sent
                job = int(domain.jobInfo()[0])
    except (DomainAbsent, StateChanged):
        return Side(None)
    power = from_state(state)
    return Side(
        power,
        runs=power is PowerState.RUNNING
        or (power is PowerState.PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR),
        left=power is PowerState.OFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED,
        sending=job != libvirt.VIR_DOMAIN_JOB_NONE,
    )


def migrate(
    old: libvirt.virConnect,
    new: libvirt.virConnect,
    server_id: UUID,
    *,
    definition: str,
    renamed: Mapping[str, str],
    filled: Sequence[str],
    networks: Mapping[str, str],
    way: Way,
    tell: Tell,
    pause: bool = False,
    whole: bool = False,
) -> None:
    """Have a running guest go on at another host; return when it does.

    Args:
        old: the host that it runs on.
        new: the host that it goes to; its root disk is there as an empty layer on the same files,
            data disks are as large and empty.
        server_id: the server.
        definition: its domain on the new host, from its next start on.
        renamed: its files of the old host, as paths, and those on the new one.
        filled: the targets (`vda`) of the disks whose content is sent; the others are only read,
            and are whole at the new host already.
        networks: its networks of the old host, by name, and those on the new one.
        way: how the hosts' QEMUs reach each other.
        tell: is told a fraction and a sentence; when it raises, the guest stays where it was.
        pause: let the guest stand still while its memory (not its disk) is sent. Of six
            emulated guests (TCG, QEMU 7.2) that ran meanwhile one arrived with a corrupted kernel;
            see docs/adr/0013-migration.md.
        whole: send all that the guest sees of its disks, also what is in files beneath: the new
            host has not got all of those.

    Raises:
        TransientError, PermanentError: ask `look` of both hosts where the guest is.
    """
    with translated():
        domain = old.lookupByUUIDString(str(server_id))
        described = domain.XMLDesc(
            libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
        )
    parameters = way.parameters() | {
        libvirt.VIR_MIGRATE_PARAM_DEST_XML: elsewhere(described, renamed, networks, definition),
        libvirt.VIR_MIGRATE_PARAM_PERSIST_XML: definition,
        libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS: list(filled),
    }
    failure: list[libvirt.libvirtError] = []
    flags = _FLAGS | (_WHOLE if whole else _LAYER) | (0 if pause else _WHILE_IT_RUNS)

    def carry() -> None:
        try:
            domain.migrate3(new, parameters, flags)
        except libvirt.libvirtError as error:
            failure.append(error)

    worker = threading.Thread(target=carry, name=f"migrate-{server_id}", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(_POLL_SECONDS)
            if worker.is_alive():
                tell(*_progress(domain))
    except BaseException:
        with suppress(libvirt.libvirtError):
            domain.abortJob()
        worker.join()
        raise
    if failure:
        with translated():
            raise failure[0]


def elsewhere(
    document: str, renamed: Mapping[str, str], networks: Mapping[str, str], definition: str
) -> str:
    """Return the document of a running domain as it has to be on another host.

    What the guest sees of it stays to the letter, or libvirt refuses. Its vCPUs run on the host's
    CPUs that its definition there tells: a NUMA node has others there.
    """
    root = parse(document)
    pins = {pin.get("vcpu"): pin for pin in parse(definition).iterfind("cputune/vcpupin")}
    for pin in root.iterfind("cputune/vcpupin"):
        if (wanted := pins.get(pin.get("vcpu"))) is not None:
            pin.set("cpuset", str(wanted.get("cpuset")))
    for disk in root.iterfind("devices/disk"):
        for stale in disk.findall("backingStore"):  # libvirt reads it from the file there
            disk.remove(stale)
        source = disk.find("source")
        if source is not None:
            source.set("file", renamed.get(str(source.get("file")), str(source.get("file"))))
            source.attrib.pop("index", None)
    # A bridge has one name on both hosts; libvirt looks whether it is there.
    for source in root.iterfind("devices/interface[@type='network']/source"):
        name = str(source.get("network"))
        source.attrib.clear()  # port and bridge are the old host's
        source.set("network", networks.get(name, name))
    return ET.tostring(root, encoding="unicode")


def await_end(conn: libvirt.virConnect, server_id: UUID, tell: Tell) -> None:
    """Return when nobody sends a guest away any more: another run's call may still be at work.

    Raises:
        MigrationUnfinished: it does not end.
    """
    for _ in range(int(_PATIENCE_SECONDS / _POLL_SECONDS)):
        if not look(conn, server_id).sending:
            return
        with translated():
            domain = conn.lookupByUUIDString(str(server_id))
        tell(*_progress(domain))
        threading.Event().wait(_POLL_SECONDS)
    raise MigrationUnfinished("The guest is being sent to another host for hours: look at both.")


def abort(conn: libvirt.virConnect, server_id: UUID) -> None:
    """Stop sending a guest away, if that is going on; it runs on where it is."""
    with suppress(libvirt.libvirtError):
        conn.lookupByUUIDString(str(server_id)).abortJob()


def downtime(conn: libvirt.virConnect, server_id: UUID) -> dict[str, int]:
    """Return what libvirt measured of the migration that brought a guest to this host.

    `time_elapsed` and `downtime` in ms, as far as it says so.
    """
    try:
        domain = conn.lookupByUUIDString(str(server_id))
        said = domain.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED)
    except libvirt.libvirtError:
        return {}
    return {name: int(said[name]) for name in ("time_elapsed", "downtime") if name in said}


def _progress(domain: libvirt.virDomain) -> tuple[float, str]:
    try:
        said = domain.jobStats(0)
    except libvirt.libvirtError:  # it has just left, or the host is silent: the call itself tells
        return 0.0, "moving"
    done, total = int(said.get("data_processed", 0)), int(said.get("data_total", 0))
    return done / max(total, done, 1), f"moving: {done >> 20} of {total >> 20} MiB sent"
