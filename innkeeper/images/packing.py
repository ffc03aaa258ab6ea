"""A file and its holes, packed: a sparse member of a tar archive, compressed by gzip.

`tar -xzf FILE` unpacks it. Python's tarfile reads such members, but writes none: the map of where
the data is, by which they begin, is made here
(https://www.gnu.org/software/tar/manual/html_node/PAX-1.html).
"""

import errno
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

NAME = "content"
_LEVEL = 1  # the next ones take twice the time for a few percent of memories and disks
_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": NAME}


class PackedFileDamaged(Exception):
    """A packed file cannot be unpacked; the text says why."""


def pack(plain: Path, target: Path, *, tell: Callable[[int], None]) -> None:
    """Pack a file into a new one; `tell` is told often how many bytes of data have passed.

    Raises:
        OSError: no space is left.
    """
    with plain.open("rb") as file:
        length, extents = os.fstat(file.fileno()).st_size, _extents(file)
        content = _Content(file, extents, tell)
        member = tarfile.TarInfo(f"GNUSparseFile.0/{NAME}")
        member.size, member.mode = content.size, 0o600
        # The size of what is in the archive first: tarfile would add it, from 8 GiB on, behind the
        # real one, and takes the last one that it reads for the file's.
        size = {"size": str(member.size)}
        member.pax_headers = size | _SPARSE | {"GNU.sparse.realsize": str(length)}
        with tarfile.open(
            target, "x:gz", format=tarfile.PAX_FORMAT, compresslevel=_LEVEL
        ) as archive:
            archive.addfile(member, content)


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Yield the content of a packed file, zeros where it has holes.

    Raises:
        PackedFileDamaged: it is none, or does not end.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            member = archive.next()
            content = archive.extractfile(member) if member else None
            if content is None:
                raise PackedFileDamaged("there is no file in it")
            with content:
                yield content
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise PackedFileDamaged(str(error)) from error


def _extents(file: IO[bytes]) -> list[tuple[int, int]]:
    """Return where a file has data, offsets and lengths; the last one ends where the file does.

    So it may be empty, as GNU tar wants it: else it would not see that the file ends in a hole.
    """
    found, end, handle = [], os.fstat(file.fileno()).st_size, file.fileno()
    at = 0
    while at < end:
        try:
            begin = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole is left
                raise
            break
        at = os.lseek(handle, begin, os.SEEK_HOLE)
        found.append((begin, at - begin))
    return found if found and at == end else [*found, (end, 0)]


class _Content(BytesIO):
    """What the archive holds of a file: the map, then the data without the holes."""

    def __init__(
        self, file: IO[bytes], extents: list[tuple[int, int]], tell: Callable[[int], None]
    ) -> None:
        numbers = [len(extents), *(number for extent in extents for number in extent)]
        text = "".join(f"{number}\n" for number in numbers).encode()
        super().__init__(text + bytes(-len(text) % tarfile.BLOCKSIZE))
        self.size = len(self.getvalue()) + sum(length for _offset, length in extents)
        self.file = file
        self.waiting = list(extents)
        self.tell_all = tell
        self.passed = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, as many as are asked for while there are so many."""
        found = super().read(size)
        while self.waiting and size is not None and len(found) < size:
            offset, length = self.waiting.pop(0)
            self.file.seek(offset)
            piece = self.file.read(min(length, size - len(found)))
            if len(piece) < length:
                self.waiting.insert(0, (offset + len(piece), length - len(piece)))
            if length and not piece:
                break  # it was cut off meanwhile: tarfile says so
            found += piece
            self.passed += len(piece)
            self.tell_all(self.passed)
        return found
