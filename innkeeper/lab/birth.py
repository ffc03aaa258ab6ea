"""Birth of a lab host's namespaces, run as a program of its own (standard library only).

`birth.py join SPEC` puts itself into the control groups, then becomes `unshare`, which makes and
pins the namespaces and runs `birth.py furnish SPEC` inside of them. Two steps, because the root of
a control group namespace is where its maker was, and mounts must be made by a process inside.
`birth.py become SPEC` starts a program in control groups.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def join(spec: dict[str, Any]) -> None:
    """Enter the control groups and become `unshare`; never returns."""
    enter_groups(spec["cgroups"])
    flags = [f"--{flag}={path}" for flag, path in spec["pins"].items()]
    again = [sys.executable, "-I", __file__, "furnish", json.dumps(spec)]
    os.execvp("unshare", ["unshare", *flags, "--propagation", "private", "--", *again])  # noqa: S606


def become(spec: dict[str, Any]) -> None:
    """Enter the control groups and become the program of `argv`; never returns."""
    enter_groups(spec["cgroups"])
    os.execvp(spec["argv"][0], spec["argv"])  # noqa: S606


def enter_groups(folders: list[str]) -> None:
    """Move this process into the control groups."""
    for folder in folders:
        (Path(folder) / "cgroup.procs").write_text(str(os.getpid()))


def furnish(spec: dict[str, Any]) -> None:
    """Give the new mount namespace the host's own folders, control groups and name."""
    socket.sethostname(spec["name"])
    forget_other_namespaces()
    for source, target in spec["binds"]:
        Path(target).mkdir(parents=True, exist_ok=True)
        mount("--bind", source, target)
    if spec["hugepages"]:
        mount("-t", "hugetlbfs", "hugetlbfs", spec["hugepages"])
    # A private copy only. Libvirt reads /proc/mounts and would still find hidden controllers,
    # hence unmounted and not covered; sysfs shows the network devices of its maker's namespace.
    subprocess.run(["umount", "--lazy", "--recursive", "/sys"], check=True)
    mount("-t", "sysfs", "sysfs", "/sys")
    if spec["unified"]:
        mount("-t", "cgroup2", "cgroup", "/sys/fs/cgroup")
    else:
        mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
        for controller in spec["controllers"]:
            folder = Path("/sys/fs/cgroup", controller)
            folder.mkdir()
            mount("-t", "cgroup", "-o", controller, "cgroup", str(folder))
    # There is no DNS in here: without these, libvirtd waits 8 s for its own host name.
    for source, target in spec["file_binds"]:
        mount("--bind", source, os.path.realpath(target))
    # Last, because everything above may read the outer /run.
    mount("--bind", spec["run"], "/run")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def forget_other_namespaces() -> None:
    """Drop our copies of pinned namespaces: they would keep other lab hosts alive for ever."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for line in lines:
        if " - nsfs " in line:
            place = line.split(" ")[4].replace("\\040", " ")
            subprocess.run(["umount", "--lazy", place], check=True)


def mount(*arguments: str) -> None:
    """Mount what the arguments say; they are those of the program."""
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    {"join": join, "furnish": furnish, "become": become}[sys.argv[1]](json.loads(sys.argv[2]))
