"""The shelf: a folder (0700) with the compressed files of shelved servers, whole or not there.

A file is made in a folder of its own beside the others and gets its name only when its content is
on disk. It is a qcow2 layer, which names what it lies on as that is called on hosts, by file name
alone, or lies on nothing; or what is in a memory or a raw disk, packed (docs/adr/0008).
"""

import errno
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from innkeeper.images import packing, qemu, store
from innkeeper.images.failure import ImageCorrupt, ShelfFileDamaged, ShelfFull
from innkeeper.images.qemu import OnProgress
from innkeeper.settings import settings

_MAKING = ".incoming"
_PIECE = 1 << 20


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
            f"There are {length >> 20} MiB to copy, the shelf has {free >> 20} MiB of room: free "
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


def stand_alone(layer: Path, chain: Sequence[Path], *, tick: Callable[[], None]) -> None:
    """Have a copied layer take over all that is in copied files between it and the last one.

    They are all in one folder, nobody else's; what each leans on, nearest first, is the next. Its
    content stays; what is in the last one it still leans on.

    Raises:
        ImageCorrupt: one of them cannot be read.
        ShelfFull: no space is left.
    """
    for upper, lower in itertools.pairwise((layer, *chain)):
        qemu.rebase(upper, lower, header_only=True)
    qemu.rebase(layer, chain[-1], tick=tick)


def compress(layer: Path, chain: Sequence[Path], name: str, *, on_progress: OnProgress) -> Path:
    """Return a compressed copy of a layer beside it; it has the layer's content, which was checked.

    What it lies on, nearest first, is beside it, too, under the names that it has on hosts.

    Raises:
        ImageCorrupt: the layer cannot be read, or its copy is not the same.
        ShelfFull: no space is left.
    """
    made = layer.parent / name
    qemu.compress(
        layer,
        chain,
        made,
        compression=settings().shelf_compression,
        on_progress=lambda fraction: on_progress(fraction * 0.8),
    )
    if not qemu.same_content(layer, made, chain, tick=lambda: on_progress(0.9)):
        raise ImageCorrupt("The compressed disk differs from the one it was made from: try again.")
    return made


def pack(plain: Path, name: str, digest: str, *, on_progress: OnProgress) -> Path:
    """Return a packed copy of a file beside it: unpacked it has this BLAKE2b, which was checked.

    Raises:
        ImageCorrupt: it has not.
        OSError: no space is left.
    """
    made, length = plain.parent / name, max(plain.stat().st_size, 1)
    packing.pack(plain, made, tell=lambda passed: on_progress(0.6 * passed / length))
    found, passed = hashlib.blake2b(), 0
    with packing.unpacked(made) as content:
        while piece := content.read(_PIECE):
            found.update(piece)
            passed += len(piece)
            on_progress(0.6 + 0.4 * min(passed / length, 1.0))
    if found.hexdigest() != digest:
        raise ImageCorrupt("The packed file differs from the one it was made from: try again.")
    return made


@contextmanager
def unpacked(name: str, size: int) -> Iterator[IO[bytes]]:
    """Yield what is in a packed file on the shelf.

    Raises:
        ShelfFileDamaged: it is not there, not of that size, or cannot be unpacked.
    """
    path = require_whole(name, size)
    try:
        with packing.unpacked(path) as content:
            yield content
    except packing.PackedFileDamaged as error:
        raise ShelfFileDamaged(
            f"{path} cannot be unpacked ({error}): bring it back from a backup."
        ) from error


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
