"""The private folder of one Ansible run: in memory, ours alone, gone afterwards.

It holds variables that may be secret. A folder whose owner was killed is known by its lock, which
the kernel releases; the next run removes it and ends the Ansible that may still use it.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_log = logging.getLogger(__name__)

_MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it are 0700 and their names random
_PREFIX = "innkeeper-ansible-"
_LOCK = "owner"


def place() -> Path:
    """Return where the folders are made: memory where there is some, else the temporary folder."""
    return _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


@contextmanager
def run_folder() -> Iterator[Path]:
    """Make a folder (0700) and remove it in the end, with every process that still names it."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place()))
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            _discard(folder)


def sweep() -> None:
    """Remove the folders of killed runs, and end what they started."""
    for folder in place().glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _log.warning("Removing what a killed Ansible run left: %s", folder)
                _discard(folder)
        except (BlockingIOError, FileNotFoundError, PermissionError):
            continue  # in use, just being made or removed, or of another user


def _discard(folder: Path) -> None:
    for process in psutil.process_iter(["pid"]):
        with suppress(psutil.Error):
            # Ansible, its workers and the shared SSH connection carry the random name in argv.
            if any(str(folder) in argument for argument in process.cmdline()):
                process.kill()
    shutil.rmtree(folder, ignore_errors=True)
