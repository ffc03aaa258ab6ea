"""What this machine has left, for a host that is this machine itself."""

from pathlib import Path

import psutil


def memory_mib() -> tuple[int, int]:
    """Return the MiB of memory, and how many of them it could give now without swapping."""
    told = psutil.virtual_memory()
    return int(told.total) >> 20, int(told.available) >> 20


def disk_gib(folder: Path) -> tuple[int, int]:
    """Return the GiB of the file system on which a folder is or will be, and those free for root.

    Raises:
        OSError: it cannot be asked.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    told = psutil.disk_usage(str(there))
    return int(told.total) >> 30, int(told.free) >> 30
