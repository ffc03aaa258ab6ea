"""Where an image may come from: an http(s) URL, or a file in one of a few folders."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from innkeeper.images.failure import SourceMissing, SourceRefused
from innkeeper.settings import settings


@dataclass(frozen=True)
class UrlSource:
    """Something to download."""

    url: str


@dataclass(frozen=True)
class FileSource:
    """Something on this machine."""

    path: Path


def parse(source: str | Path) -> UrlSource | FileSource:
    """Return what a source is, by its text alone.

    Raises:
        SourceRefused: neither http(s), nor a file: URL or an absolute path.
    """
    text = str(source)
    parts = urlsplit(text)
    if parts.scheme in {"http", "https"} and parts.hostname:
        if parts.username or parts.password:
            raise SourceRefused(
                "The image's URL has a user name or password, which would be kept and shown: "
                "use a URL without."
            )
        return UrlSource(text)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        text = unquote(parts.path)
    if text.startswith("/") and "\0" not in text:
        return FileSource(Path(text))
    raise SourceRefused(
        f"'{source}' is no source for an image: use an http:// or https:// URL, or a file below "
        f"{_listed(default_folders())}."
    )


def default_folders() -> tuple[Path, ...]:
    """Return the folders from which files may be imported: an operator puts them there."""
    return (settings().home / "imports", settings().cache / "images")


@contextmanager
def opened(source: FileSource, folders: Iterable[Path]) -> Iterator[BinaryIO]:
    """Open a source file that lies below one of the folders, links resolved.

    What was opened is checked, not what the name meant a moment before.

    Raises:
        SourceRefused: it lies elsewhere, or is no regular file.
        SourceMissing: it cannot be opened.
    """
    allowed = [folder.resolve() for folder in folders]
    try:
        handle = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if not any(source.path.resolve().is_relative_to(folder) for folder in allowed):
            raise SourceRefused(_outside(source.path, allowed)) from None
        raise SourceMissing(
            f"The image file {source.path} cannot be read ({error.strerror}): check the path."
        ) from error
    with os.fdopen(handle, "rb") as file:
        real = Path(f"/proc/self/fd/{handle}").readlink()
        if not any(real.is_relative_to(folder) for folder in allowed):
            raise SourceRefused(_outside(source.path, allowed))
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise SourceRefused(f"{source.path} is not a regular file.")
        yield file


def _outside(path: Path, allowed: Iterable[Path]) -> str:
    return f"The file {path} may not be imported: put it below {_listed(allowed)}."


def _listed(folders: Iterable[Path]) -> str:
    return " or ".join(str(folder) for folder in folders)
