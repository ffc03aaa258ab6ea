"""Bring an image's content into the store's incoming folder: resumable, hashed, bounded.

A download that broke off, or whose worker was killed, goes on where it stopped: the bytes are in a
`.part` file, and beside it what the server said about them. Nothing here is ever taken for an
image: only `store.publish` gives a file its final name.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from filelock import FileLock, Timeout

from innkeeper.images import source as sources
from innkeeper.images.failure import (
    ChecksumDiffers,
    ImageTooLarge,
    ImportBusy,
    SourceMissing,
    SourceUnavailable,
    StoreFull,
)
from innkeeper.settings import settings

_log = logging.getLogger(__name__)

OnProgress = Callable[[float], None]

CHUNK_BYTES = 1 << 20
TRIES_WITHOUT_PROGRESS = 3
RETRY_SECONDS = 0.5
PROGRESS_SECONDS = 0.5
TIMEOUT = httpx.Timeout(20.0)  # shorter than the time after which an import counts as dead
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Fetched:
    """Content that arrived whole; `path` is in the incoming folder, not yet an image."""

    path: Path
    sha256: str
    size: int


class _BrokenOff(Exception):
    """The connection ended before the content did."""


@contextlib.contextmanager
def incoming(source: str | Path, store: Path) -> Iterator[Path]:
    """Hold the folder in which one source is worked on; a killed process loses it at once.

    Raises:
        ImportBusy: another process works on the same source.
    """
    key = hashlib.sha256(str(source).encode()).hexdigest()[:24]
    folder = store / ".incoming" / key
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            yield folder
    except Timeout:
        raise ImportBusy(f"{source} is being imported by another process.") from None


def fetch(
    source: str | Path,
    folder: Path,
    *,
    expected_sha256: str | None = None,
    on_progress: OnProgress | None = None,
    resume: bool = True,
    limit_bytes: int | None = None,
    folders: Iterable[Path] | None = None,
) -> Fetched:
    """Bring the content of `source` into `folder` (see `incoming`) and return its SHA-256.

    Args:
        source: http(s) URL, file: URL or absolute path.
        folder: where the `.part` file is.
        expected_sha256: what the content must hash to.
        on_progress: is told the fraction that arrived, 0 to 1, when the size is known; it may
            raise to stop, the part is kept then.
        resume: whether to go on with a part that is there.
        limit_bytes: size that is too much; `image_size_limit_gib` of the settings when None.
        folders: where files may be; `source.default_folders` when None.

    Raises:
        SourceRefused, SourceMissing, ImageTooLarge, StoreFull, ChecksumDiffers: permanent.
        SourceUnavailable: the source broke off and did not come back; the part is kept.
    """
    limit = limit_bytes or settings().image_size_limit_gib << 30
    parsed = sources.parse(source)
    part = _Part(folder, str(source), limit, on_progress or (lambda _fraction: None))
    if not resume:
        part.discard()
    try:
        if isinstance(parsed, sources.FileSource):
            part.discard()
            with sources.opened(parsed, folders or sources.default_folders()) as file:
                part.take(_chunks(file), 0, os.fstat(file.fileno()).st_size)
        else:
            _download(parsed.url, part)
    except ImageTooLarge:
        part.discard()
        raise
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        part.discard()
        raise StoreFull(
            f"The image store {folder.parent.parent} is full: make room, then import again."
        ) from error
    found = part.digest.hexdigest()
    if expected_sha256 and found != expected_sha256.lower():
        part.discard()
        raise ChecksumDiffers(
            f"{source} has the SHA-256 {found}, not {expected_sha256.lower()}: check the source, "
            "or give the right checksum, then import again."
        )
    return Fetched(part.path, found, part.size)


class _Part:
    """The bytes that arrived so far, their hash, and what the server said of them."""

    def __init__(self, folder: Path, source: str, limit: int, on_progress: OnProgress) -> None:
        self.path = folder / "content.part"
        self.about = folder / "content.json"
        self.source = source
        self.limit = limit
        self.on_progress = on_progress
        self.size = 0
        self.digest = hashlib.sha256()
        self.validator: str | None = None
        self.total: int | None = None

    def discard(self) -> None:
        """Start over."""
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)
        self.size, self.digest, self.validator, self.total = 0, hashlib.sha256(), None, None

    def recall(self) -> None:
        """Read what an earlier process left, hash it again, or start over."""
        try:
            about = json.loads(self.about.read_text())
            same = about["source"] == self.source and about["validator"] is not None
            with self.path.open("rb") as file:
                for chunk in _chunks(file) if same else ():
                    self.digest.update(chunk)
                    self.size += len(chunk)
                    self.on_progress(0.0)
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if same:
            self.validator, self.total = about["validator"], about["total"]
        else:
            self.discard()

    def remember(self, validator: str | None, total: int | None) -> None:
        """Note what the content is, before any of it is written."""
        self.validator, self.total = validator, total
        fresh = self.about.with_suffix(".fresh")
        fresh.write_text(
            json.dumps({"source": self.source, "validator": validator, "total": total})
        )
        fresh.replace(self.about)

    def take(self, chunks: Iterable[bytes], offset: int, total: int | None) -> None:
        """Append chunks from `offset` on; the part must be that long."""
        self._bound(total or 0)
        due = 0.0
        with self.path.open("r+b" if offset else "wb") as out:
            out.truncate(offset)
            out.seek(offset)
            for chunk in chunks:
                self._bound(self.size + len(chunk))
                out.write(chunk)
                self.digest.update(chunk)
                self.size += len(chunk)
                if total and (time.monotonic() >= due or self.size >= total):
                    due = time.monotonic() + PROGRESS_SECONDS
                    self.on_progress(min(self.size / total, 1.0))
            out.flush()
            os.fsync(out.fileno())

    def _bound(self, size: int) -> None:
        if size > self.limit:
            raise ImageTooLarge(
                f"{self.source} is larger than the limit of {self.limit / (1 << 30):g} GiB: use a "
                "smaller image, or raise INNKEEPER_IMAGE_SIZE_LIMIT_GIB."
            )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _download(url: str, part: _Part) -> None:
    """Download, resuming as long as every try brings something."""
    part.recall()
    fruitless = 0
    with httpx.Client(timeout=TIMEOUT, follow_redirects=True, max_redirects=5) as client:
        while True:
            before = part.size
            try:
                _one_try(client, url, part)
            except (httpx.TransportError, _BrokenOff) as error:
                fruitless = 0 if part.size > before else fruitless + 1
                if fruitless >= TRIES_WITHOUT_PROGRESS:
                    raise SourceUnavailable(
                        f"{url} broke off after {part.size} bytes ({type(error).__name__}: "
                        f"{error}): the rest is fetched at the next try."
                    ) from error
                _log.info("Download of %s broke off at %d: %s", url, part.size, error)
                part.on_progress(part.size / part.total if part.total else 0.0)
                time.sleep(RETRY_SECONDS)
            except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise SourceMissing(f"{url} leads nowhere ({error}): check the URL.") from error
            else:
                return


def _one_try(client: httpx.Client, url: str, part: _Part) -> None:
    headers = {"Accept-Encoding": "identity"}  # the bytes themselves are hashed
    if part.size and part.validator:
        if part.size == part.total:
            return
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    with client.stream("GET", url, headers=headers) as answer:
        offset, total = _accepted(answer, url, part)
        if not offset:
            part.discard()
            part.remember(_validator(answer), total)
        part.take(answer.iter_raw(), offset, total)
    if total is not None and part.size != total:
        raise _BrokenOff(f"{part.size} of {total} bytes")


def _accepted(answer: httpx.Response, url: str, part: _Part) -> tuple[int, int | None]:
    """Return from which offset the answer goes on, and how long the whole content is."""
    status = answer.status_code
    if status == httpx.codes.PARTIAL_CONTENT:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match and int(match[1]) == part.size:
            return part.size, None if match[2] == "*" else int(match[2])
        part.discard()
        raise _BrokenOff("the server sent another range than asked for")
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
        part.discard()
        raise _BrokenOff("the content became shorter")
    if status in _PASSING:
        raise _BrokenOff(f"the server said {status}")
    if status != httpx.codes.OK:
        raise SourceMissing(
            f"{url} cannot be fetched (the server said {status} {answer.reason_phrase}): check "
            "the URL."
        )
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _validator(answer: httpx.Response) -> str | None:
    """Return what later proves that the content is still the same (RFC 9110, 13.1.5)."""
    headers: Any = answer.headers
    if headers.get("Accept-Ranges", "") == "none":
        return None
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    return headers.get("Last-Modified") or None
