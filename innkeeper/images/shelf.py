"""The shelf: a folder (0700) with the compressed disks of shelved servers, whole or not there.

A file is made in a folder of its own beside the others and gets its name only when its content is
on disk. It is a qcow2 layer on its image's base volume, named by file name alone, or lies on
nothing (docs/adr/0008).
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from innkeeper.images import qemu, store
from innkeeper.images.failure import ImageCorrupt, ShelfFileDamaged, ShelfFull
from innkeeper.images.qemu import OnProgress
from innkeeper.settings import settings

_MAKING = ".incoming"


def folder() -> Path:
    """Return the shelf's folder, made if it is not there."""
    place = settings().shelf
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    (place / _MAKING).mkdir(mode=0o700, exist_ok=True)
    return place


def path_of(name: str) -> Path:
    """Return where a file of that name is, or would be."""
    return folder() / name


def require_room(length: int) -> None:
    """Pass when `length` bytes fit onto the shelf.

    Raises:
        ShelfFull: they do not.
    """
    free = shutil.disk_usage(folder()).free
    if free < length:
        raise ShelfFull(
            f"The disk has {length >> 20} MiB to copy, the shelf {free >> 20} MiB of room: free "
            f"space in {settings().shelf}, or set INNKEEPER_SHELF to a larger place."
        )


@contextmanager
def making(name: str) -> Iterator[Path]:
    """Yield an empty folder in which a file for the shelf is made; it is gone afterwards.

    Raises:
        ShelfFull: what was written to it did not fit.
    """
    place = folder() / _MAKING / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        yield place
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ShelfFull(f"No space is left on the shelf, {settings().shelf}.") from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def compress(layer: Path, base: Path | None, name: str, *, on_progress: OnProgress) -> Path:
    """Return a compressed copy of a layer beside it; it has the layer's content, which was checked.

    The base, too, is beside the layer, under the name that it has on hosts.

    Raises:
        ImageCorrupt: the layer cannot be read, or its copy is not the same.
        ShelfFull: no space is left.
    """
    made = layer.parent / name
    qemu.compress(
        layer,
        base,
        made,
        compression=settings().shelf_compression,
        on_progress=lambda fraction: on_progress(fraction * 0.8),
    )
    if not qemu.same_content(layer, made, base, tick=lambda: on_progress(0.9)):
        raise ImageCorrupt("The compressed disk differs from the one it was made from: try again.")
    return made


def publish(made: Path, name: str, *, tell: OnProgress) -> tuple[int, str]:
    """Put a finished file on the shelf under its name; return its size and SHA-256."""
    sha256 = store.hash_of(made, tick=lambda: tell(1.0))
    size = made.stat().st_size
    store.settle(made, path_of(name))
    return size, sha256


def require_whole(name: str, size: int) -> Path:
    """Return the path of a file on the shelf.

    Raises:
        ShelfFileDamaged: it is not there, or not of that size.
    """
    path = path_of(name)
    found = path.stat().st_size if path.exists() else None
    if found != size:
        what = "missing" if found is None else f"{found} bytes long"
        raise ShelfFileDamaged(
            f"{path} is {what}, it should have {size} bytes: bring it back from a backup."
        )
    return path


def remove(name: str) -> None:
    """Take a file, and what was begun of it, from the shelf; fine when there is none."""
    shutil.rmtree(folder() / _MAKING / name, ignore_errors=True)
    path = path_of(name)
    if path.exists():
        path.unlink(missing_ok=True)
        store.sync(path.parent)


def sizes() -> dict[str, int]:
    """Return the files on the shelf and their sizes in bytes; begun ones have none."""
    place = folder()
    found = {path.name: 0 for path in (place / _MAKING).iterdir()}
    for path in place.iterdir():
        with suppress(FileNotFoundError):
            if path.is_file():
                found[path.name] = path.stat().st_size
    return found
