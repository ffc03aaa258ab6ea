"""What the stack costs while it runs: proportional memory and processor time."""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from innkeeper.stack.supervisor import leftovers

MIB = 2**20


@dataclass(frozen=True)
class Usage:
    """One program with its children: `memory` in MiB (shares divided), `cpu` in % of a core."""

    name: str
    processes: int
    memory: float
    cpu: float


def measure(home: Path, seconds: float = 30.0) -> list[Usage]:
    """Watch the stack of `home` for some seconds; return one entry a program, supervisord first.

    Processes that come or go meanwhile count with what they used since they were seen.
    """
    before = {name: _family(process) for name, process in _programs(home).items()}
    used = {p: _cpu_seconds(p) for family in before.values() for p in family}
    time.sleep(seconds)
    return [
        Usage(
            name=name,
            processes=len(family),
            memory=sum(_memory(p) for p in family) / MIB,
            cpu=100 * sum(_cpu_seconds(p) - used.get(p, 0.0) for p in family) / seconds,
        )
        for name, family in ((n, _family(p)) for n, p in _programs(home).items())
    ]


def _programs(home: Path) -> dict[str, psutil.Process]:
    """Return supervisord and its direct children, named after their log files."""
    found: dict[str, psutil.Process] = {}
    for process in leftovers(home):
        command = process.cmdline()
        if "supervisor.supervisord" in command:
            found["supervisord"] = process
    if "supervisord" in found:
        for child in found["supervisord"].children():
            found[child.environ().get("SUPERVISOR_PROCESS_NAME", child.name())] = child
    return found


def _family(process: psutil.Process) -> list[psutil.Process]:
    if "supervisor.supervisord" in process.cmdline():
        return [process]
    return [process, *process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
