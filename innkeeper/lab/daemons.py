"""Processes of a lab host: start its libvirtd, find and end everything that runs in it."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from innkeeper.lab import birth
from innkeeper.lab.cgroups import ControlGroups
from innkeeper.lab.errors import LabCannotStart, LabProcessesRemain
from innkeeper.lab.layout import NAMESPACES, HostLayout, is_mounted

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
    """Return the processes inside the host: in its control groups, or in a pinned namespace."""
    pids = ControlGroups(layout.mark).members()
    pins = {kind: layout.pins / kind for kind in NAMESPACES}
    inodes = {kind: pin.stat().st_ino for kind, pin in pins.items() if is_mounted(pin)}
    pids |= {pid for pid in psutil.pids() if _inside(pid, inodes)}
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
    leaf = ControlGroups(layout.mark).daemons()
    arguments = ["-d", "-f", "/etc/libvirt/libvirtd.conf", "-p", "/run/libvirtd.pid"]
    spec = {"cgroups": [str(leaf)] if leaf else [], "argv": layout.enter([DAEMON, *arguments])}
    inherited = {k: v for k, v in os.environ.items() if k in {"PATH", "LANG"}}
    words = layout.folder / "log" / "start.log"
    with words.open("wb") as output:
        code = subprocess.run(
            [sys.executable, "-I", str(birth.__file__), "become", json.dumps(spec)],
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


def _inside(pid: int, inodes: dict[str, int]) -> bool:
    """Tell whether a process is in one of the namespaces, given by kind and inode."""
    try:
        return any(Path(f"/proc/{pid}/ns/{k}").stat().st_ino == i for k, i in inodes.items())
    except OSError:  # ended meanwhile, or a kernel thread
        return False


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
