"""What an estate could leave on the machine."""

from pathlib import Path

import psutil

from innkeeper.lab.layout import HostLayout
from innkeeper.stack.supervisor import leftovers


def traces(home: Path) -> dict[str, list[str]]:
    """Return everything on this machine that an estate could have left."""
    marks = tuple(HostLayout(home / "lab", f"lab{n}").mark for n in (1, 2))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    processes = [
        " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]) if p.pid
    ]
    links = [link.name for link in Path("/sys/class/net").iterdir()]
    found = {
        "mounts": [line for line in mounts if str(home) in line],
        "processes": [command for command in processes if str(home) in command],
        "marked": [process.name() for process in leftovers(home)],
        "links": [name for name in links if name.startswith(marks)],
        "groups": [str(p) for p in Path("/sys/fs/cgroup").glob("*/ik*") if p.name in marks],
        "files": [str(home)] if home.exists() else [],
    }
    return {kind: entries for kind, entries in found.items() if entries}
