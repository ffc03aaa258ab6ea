"""What the numbers were measured on."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.table import Table


def load() -> str:
    """Return the load averages over 1, 5 and 15 minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def describe() -> Table:
    """Return the machine and the versions that matter."""
    rows = [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("processor", f"{os.cpu_count()} cores, {_processor()}"),
        ("memory", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"),
        ("kernel", platform.release()),
        ("accelerator", _accelerator()),
        ("QEMU", _first_line("qemu-system-x86_64", "--version")),
        ("libvirt", _first_line("libvirtd", "--version")),
        ("PostgreSQL", _postgres()),
        ("Python", platform.python_version()),
        ("load before", load()),
    ]
    return Table("Machine", ("what", "value"), list(rows))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _accelerator() -> str:
    there = "there" if Path("/dev/kvm").exists() else "absent"
    chosen = os.environ.get("INNKEEPER_ACCELERATOR", "auto")
    if chosen == "qemu":
        return f"QEMU's TCG, by setting (/dev/kvm is {there})"
    return f"{chosen} (/dev/kvm is {there})"


def _first_line(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return "not found"
    return (done.stdout.strip().splitlines() or ["unknown"])[0]


def _postgres() -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return _first_line(str(found[-1]), "--version") if found else "not found"
