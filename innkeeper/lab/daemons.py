"""Processes of a lab host: start its libvirtd, find and end everything that runs in it."""

import logging
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from innkeeper.lab.cgroups import ControlGroups
from innkeeper.lab.errors import LabCannotStart, LabProcessesRemain
from innkeeper.lab.layout import HostLayout

log = logging.getLogger(__name__)

START_SECONDS = 30.0
STOP_SECONDS = 10.0
TERM_SECONDS = 3.0
KILL_SECONDS = 10.0
PAUSE_SECONDS = 0.05
DAEMON = "libvirtd"


def answers(path: Path) -> bool:
    """Tell whether somebody listens at the UNIX socket `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def members(layout: HostLayout) -> list[psutil.Process]:
    """Return the processes inside the host: in its network namespace or in its control groups."""
    pids = ControlGroups(layout.mark).members()
    pin = layout.pins / "net"
    if layout.pinned():
        inode = pin.stat().st_ino
        pids |= {pid for pid in psutil.pids() if _network_namespace(pid) == inode}
    found = []
    for pid in pids:
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found


def start(layout: HostLayout) -> None:
    """Start libvirtd unless it answers, and wait until it does.

    Raises:
        LabCannotStart: it did not come up; the text carries its last words.
    """
    if answers(layout.socket):
        return
    for process in _daemons(layout):  # alive but deaf: hung, or its socket was removed
        _end([process], STOP_SECONDS)
    arguments = ["-d", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirtd.pid"]
    inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "LANG"}}
    words = layout.folder / "log" / "start.log"
    with words.open("wb") as output:
        code = subprocess.run(
            layout.enter([DAEMON, *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=inherited,
            cwd="/",
            check=False,
            timeout=START_SECONDS,
        ).returncode
    deadline = time.monotonic() + START_SECONDS
    while not answers(layout.socket):
        if code != 0 or time.monotonic() > deadline:
            last = words.read_text(errors="replace").strip() or "no message"
            raise LabCannotStart(f"libvirtd of {layout.name} did not start: {last}")
        time.sleep(PAUSE_SECONDS)
    groups = ControlGroups(layout.mark)
    for process in _daemons(layout):
        groups.adopt(process.pid)


def stop(layout: HostLayout) -> None:
    """Stop libvirtd; guests keep running.

    Raises:
        LabProcessesRemain: it did not even react to SIGKILL.
    """
    _end(_daemons(layout), STOP_SECONDS)


def end_all(layout: HostLayout) -> None:
    """End every process of the host: libvirtd first, then guests and DHCP servers.

    Raises:
        LabProcessesRemain: some did not even react to SIGKILL.
    """
    stop(layout)
    _end(members(layout), TERM_SECONDS)


def _daemons(layout: HostLayout) -> list[psutil.Process]:
    return [process for process in members(layout) if _name(process) == DAEMON]


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _network_namespace(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except OSError:  # ended meanwhile, or a kernel thread
        return 0


def _end(processes: list[psutil.Process], patience: float) -> None:
    """Send SIGTERM, after `patience` seconds SIGKILL."""
    remaining = processes
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, KILL_SECONDS)):
        for process in remaining:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, remaining = psutil.wait_procs(remaining, timeout=seconds)
        if not remaining:
            return
    pids = ", ".join(str(process.pid) for process in remaining)
    raise LabProcessesRemain(f"Processes {pids} did not end: see why, then repeat `lab down`.")
