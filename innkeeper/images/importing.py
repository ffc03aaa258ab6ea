"""From a source to a published image, in the order that keeps a bad one from being usable."""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from innkeeper.errors import PermanentError
from innkeeper.images import qemu, store
from innkeeper.images.fetch import fetch, incoming
from innkeeper.settings import settings

OnPhase = Callable[[Literal["importing", "preparing"], float], None]


@dataclass(frozen=True)
class Imported:
    """A published image; sizes in bytes. `source_sha256` is of what was fetched."""

    path: Path
    sha256: str
    size: int
    virtual_size: int
    source_sha256: str


def import_image(
    source: str,
    *,
    expected_sha256: str | None = None,
    on_phase: OnPhase | None = None,
    image_store: Path | None = None,
    folders: Iterable[Path] | None = None,
) -> Imported:
    """Fetch, verify, check, convert where needed, and publish. Ensure-shaped: run it again.

    Args:
        source: http(s) URL, or a file in an allowed folder.
        expected_sha256: SHA-256 of the content at the source.
        on_phase: is told the phase and its fraction from 0 to 1, many times a second in places
            and never less than every 20 s: a sign of life; it may raise to stop.
        image_store: where; the settings' store when None.
        folders: where source files may be; `source.default_folders` when None.

    Raises:
        PermanentError: this source can never become an image; what was fetched is removed.
        TransientError: it may work later; what was fetched is kept for that.
    """
    tell = on_phase or (lambda _phase, _fraction: None)
    place = image_store or settings().image_store
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if expected_sha256:
        there = store.path_of(expected_sha256.lower(), place)
        if there.exists():  # published before the journal could say so
            size = qemu.inspect(there).virtual_size
            return _imported(there, expected_sha256.lower(), size, expected_sha256.lower())
    with incoming(source, place) as folder:
        try:
            fetched = fetch(
                source,
                folder,
                expected_sha256=expected_sha256,
                on_progress=lambda fraction: tell("importing", fraction),
                folders=folders,
            )
            tell("preparing", 0.0)
            info = qemu.inspect(fetched.path)
            qemu.check(fetched.path, info.format, tick=lambda: tell("preparing", 0.0))
            path, sha256 = fetched.path, fetched.sha256
            if info.format != "qcow2":
                path = folder / "converted.part"
                qemu.convert(
                    fetched.path,
                    info.format,
                    path,
                    on_progress=lambda fraction: tell("preparing", fraction),
                )
                qemu.check(path, tick=lambda: tell("preparing", 1.0))
                sha256 = store.hash_of(path, tick=lambda: tell("preparing", 1.0))
        except PermanentError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        published = store.publish(path, sha256, place)
        shutil.rmtree(folder, ignore_errors=True)
    return _imported(published, sha256, info.virtual_size, fetched.sha256)


def _imported(path: Path, sha256: str, virtual_size: int, source_sha256: str) -> Imported:
    return Imported(path, sha256, path.stat().st_size, virtual_size, source_sha256)
