"""The image store: verified images, one `<sha256>.qcow2` each, whole or not there at all."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def path_of(sha256: str, store: Path) -> Path:
    """Return where the image of that content is, or would be."""
    return store / f"{sha256}.qcow2"


def hash_of(path: Path, tick: Callable[[], None] | None = None) -> str:
    """Return the SHA-256 of a file; `tick` is called often meanwhile, and may raise to stop."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            if tick is not None:
                tick()
    return digest.hexdigest()


def publish(path: Path, sha256: str, store: Path) -> Path:
    """Give a verified qcow2 file of the store's file system its final name; return that.

    The name appears only when the content is on disk. A file of that name has that content, so
    that a second import of it changes nothing.
    """
    target = path_of(sha256, store)
    if target.exists():
        path.unlink(missing_ok=True)
        return target
    settle(path, target)
    return target


def settle(path: Path, target: Path) -> None:
    """Give a file its final name (0600), in the same file system, once its content is on disk."""
    path.chmod(0o600)  # libvirt uploads what we read: nobody else needs to
    sync(path)
    path.rename(target)
    sync(target.parent)


def sweep(store: Path, older_than_seconds: float) -> list[str]:
    """Remove what abandoned imports left behind; return the names of what was removed.

    A folder that an import holds is touched all the time, so age tells them apart.
    """
    removed = []
    for folder in (store / ".incoming").glob("*"):
        if not folder.is_dir():
            continue
        newest = max(item.stat().st_mtime for item in (folder, *folder.iterdir()))
        if time.time() - newest > older_than_seconds:
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            removed.append(folder.name)
    return removed


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
