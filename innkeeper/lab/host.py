"""One lab host: bring it up from whatever state it is in, restart its libvirtd, take it down."""

import json
import logging
import shutil
import subprocess
import sys
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from innkeeper.host.whole import replace_file
from innkeeper.lab import birth, cable, daemons
from innkeeper.lab.cgroups import ControlGroups
from innkeeper.lab.errors import LabCannotStart
from innkeeper.lab.layout import NAMESPACES, SOCKET_PATH_LIMIT, HostLayout, is_mounted

log = logging.getLogger(__name__)

FOLDERS = (
    "run/libvirt",
    "run/lock",
    "etc",
    "lib/images",
    "lib/boot",
    "lib/qemu",
    "lib/hugepages",
    "log/qemu",
    "cache",
)
BINDS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
LIBVIRTD_CONF = """host_uuid = "{host_uuid}"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_level = 3
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""
# No virtlogd (stdio_handler), no second mount namespace a guest (namespaces), no ownership
# changes: everything in a lab host belongs to root.
QEMU_CONF = """security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
namespaces = []
"""
HUGEPAGES = "/var/lib/libvirt/hugepages"
# libvirtd does not start with one that is not there.
HUGEPAGES_CONF = f'hugetlbfs_mount = "{HUGEPAGES}"\n'


@dataclass(frozen=True, slots=True)
class HostRecord:
    """What a lab host keeps for life: its number on the network, and its identity."""

    index: int
    host_uuid: str


def read_record(layout: HostLayout) -> HostRecord | None:
    """Return the host's record, or nothing when it was never up."""
    try:
        found = json.loads((layout.folder / "host.json").read_text())
    except FileNotFoundError:
        return None
    return HostRecord(found["index"], found["host_uuid"])


def bring_up(layout: HostLayout, first_index: int) -> HostRecord:
    """Make the host answer, whatever is left of it; fast when it is up already.

    Raises:
        LabCannotStart: something refused; the text says what.
    """
    if len(str(layout.socket)) > SOCKET_PATH_LIMIT:
        raise LabCannotStart(
            f"'{layout.socket}' is longer than {SOCKET_PATH_LIMIT} characters, the limit for a "
            "socket: choose a shorter INNKEEPER_HOME."
        )
    record = _recorded(layout, first_index)
    if not layout.pinned():
        tear_down(layout)  # halves of an interrupted start or stop
        _empty_run(layout)
        _write_configuration(layout, record)
        _make_namespaces(layout)
    cable.plug(layout.veth, layout.pins / "net", record.index)
    daemons.start(layout)
    log.info("Lab host %s answers at %s", layout.name, layout.uri)
    return record


def tear_down(layout: HostLayout) -> None:
    """Remove everything of the host that lives in the kernel; its folder stays.

    Raises:
        LabProcessesRemain: a process did not end; nothing else was touched then.
    """
    daemons.end_all(layout)
    cable.unplug(layout.veth)
    for kind in NAMESPACES:
        _unmount(layout.pins / kind)
    _unmount(layout.pins)
    ControlGroups(layout.mark).remove()


def purge(layout: HostLayout) -> None:
    """Remove the folder of a host that is down, disks included."""
    shutil.rmtree(layout.folder, ignore_errors=False)


def _recorded(layout: HostLayout, first_index: int) -> HostRecord:
    """Return the record, made or brought up to date."""
    for folder in FOLDERS:
        (layout.folder / folder).mkdir(parents=True, exist_ok=True)
    layout.pool.mkdir(exist_ok=True)
    old = read_record(layout)
    index = cable.choose_index(old.index if old else None, layout.veth, first_index)
    fresh = HostRecord(index, old.host_uuid if old else str(uuid.uuid4()))
    if fresh != old:
        replace_file(layout.folder / "host.json", json.dumps(asdict(fresh)).encode())
    return fresh


def _empty_run(layout: HostLayout) -> None:
    """Empty the host's `/run`, as a boot does.

    What is left there of an earlier boot names processes that have ended, by numbers that others
    have by now: libvirtd would kill them, as guests that do not answer. And it takes networks for
    started that are gone.
    """
    shutil.rmtree(layout.run)
    for folder in FOLDERS:
        (layout.folder / folder).mkdir(parents=True, exist_ok=True)


def _write_configuration(layout: HostLayout, record: HostRecord) -> None:
    files = {
        "libvirtd.conf": LIBVIRTD_CONF.format(host_uuid=record.host_uuid),
        "qemu.conf": QEMU_CONF + (HUGEPAGES_CONF if _knows_hugetlbfs() else ""),
        "hosts": f"127.0.0.1 localhost\n127.0.1.1 {layout.name}\n",
        "resolv.conf": "",
    }
    for name, text in files.items():
        (layout.folder / "etc" / name).write_text(text)


def _knows_hugetlbfs() -> bool:
    """Tell whether this machine's kernel has huge pages, which the lab's hosts share."""
    return "\thugetlbfs\n" in Path("/proc/filesystems").read_text()


def _make_namespaces(layout: HostLayout) -> None:
    groups = ControlGroups(layout.mark)
    groups.ensure()
    layout.pins.mkdir(exist_ok=True)
    # A pinned mount namespace needs a private mount around its pin.
    _call("mount", "--bind", str(layout.pins), str(layout.pins))
    _call("mount", "--make-private", str(layout.pins))
    for kind in NAMESPACES:
        (layout.pins / kind).touch()
    etc = layout.folder / "etc"
    spec = {
        "name": layout.name,
        "cgroups": [str(folder) for folder in groups.folders()],
        "unified": groups.unified,
        "controllers": groups.controllers(),
        "pins": {flag: str(layout.pins / kind) for kind, flag in NAMESPACES.items()},
        "binds": [(str(layout.folder / own), place) for own, place in BINDS.items()],
        "file_binds": [(str(etc / n), f"/etc/{n}") for n in ("hosts", "resolv.conf")],
        "hugepages": HUGEPAGES if _knows_hugetlbfs() else "",
        "run": str(layout.run),
    }
    # unshare pins before anything is mounted inside: without this mark, a host whose maker was
    # killed in between would pass for whole, and its libvirtd would use the machine's own /run.
    layout.unfinished.touch()
    program = [sys.executable, "-I", str(birth.__file__), "join", json.dumps(spec)]
    _call("setpriv", "--pdeathsig", "KILL", *program)  # no maker outlives the lock of its `up`
    layout.unfinished.unlink()


def _unmount(path: Path) -> None:
    while is_mounted(path):  # twice mounted after an interrupted start
        _call("umount", "--lazy", str(path))


def _call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabCannotStart(f"{Path(argv[0]).name} failed: {last}")
