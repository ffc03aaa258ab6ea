"""What this machine's kernel does with memory; its huge pages are shared by all labs."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

KNOB = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
LOCK = Path(tempfile.gettempdir()) / "innkeeper-tests-hugepages.lock"


def free() -> int:
    """Return how many huge pages of 2 MiB nobody uses."""
    return int(KNOB.with_name("free_hugepages").read_text())


def pages_read(told: Callable[[], int]) -> bool:
    """Tell whether somebody counts free pages as the kernel does, though they come and go."""
    for _ in range(20):
        before, said = free(), told()
        if before == free():
            return said == before
    pytest.skip("somebody takes and gives huge pages all the time")


def _process(server_id: UUID) -> Path:
    """Return the folder of a running guest's process below /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            said = (process / "cmdline").read_bytes()
            if said.startswith(b"/usr/bin/qemu-system") and str(server_id).encode() in said:
                return process
    pytest.fail("the guest does not run")


def taken_mib(server_id: UUID) -> int:
    """Return how much of a running guest's memory is made of huge pages, as the kernel counts."""
    lines = (_process(server_id) / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["HugetlbPages"].split()[0]) >> 10


def soft_limit(server_id: UUID) -> int | None:
    """Return the MiB that the kernel limits a guest to, whichever version of control groups."""
    lines = (_process(server_id) / "cgroup").read_text().splitlines()
    found = {key: path for _, key, path in (line.split(":", 2) for line in lines)}
    old = "memory" in found
    root = Path("/sys/fs/cgroup/memory" if old else "/sys/fs/cgroup")
    group = root / found["memory" if old else ""].lstrip("/")
    name = "memory.soft_limit_in_bytes" if old else "memory.high"
    files = [place / name for place in (group, *group.parents) if (place / name).exists()]
    told = [int(text) for file in files if (text := file.read_text().strip()) != "max"]
    least = min(told, default=1 << 62)
    return least >> 20 if least < 1 << 60 else None


@contextmanager
def set_aside(count: int) -> Iterator[bool]:
    """Have the machine set aside that many pages of 2 MiB more than are in use, for one test.

    Tells whether they are there: the kernel may know no such pages, may not be ours to tell, or
    may not find enough memory in one piece.
    """
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when we die
        before = int(KNOB.read_text()) if os.access(KNOB, os.W_OK) else None
        if before is None:
            yield False
            return
        used = before - free()
        try:
            KNOB.write_text(str(used + count))
            yield int(KNOB.read_text()) >= used + count
        finally:
            KNOB.write_text(str(before))
