"""Whole volumes to and from this machine, as streams of the libvirt connection.

Other than in `storage` nobody waits for his turn meanwhile: it may take minutes, and libvirt
allows everything else beside it.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import libvirt

from innkeeper.errors import TransientError
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import translated

Tell = Callable[[int], None]
"""Is told often how many bytes have passed so far; may raise to stop."""

_ZEROS = bytes(4 << 20)
_PIECE = 256 << 10  # what libvirt puts into one message of a stream, at most


class VolumeCut(TransientError):
    """A stream ended before the volume did."""


@translated()
def bring(
    conn: libvirt.virConnect, pool: str, name: str, target: Path, *, tell: Tell
) -> tuple[int, str]:
    """Copy a volume's file to a new local file; return its length and the BLAKE2b of its content.

    Holes are not sent, and are holes here, too; in the BLAKE2b they are zeros. That is what `b2sum`
    computes; it is three times as fast as SHA-256 where the processor has no instructions for that.

    Raises:
        VolumeAbsent, PoolAbsent: there is none.
        OSError: the file cannot be written, for example because no space is left.
    """
    volume = conn.storagePoolLookupByName(pool).storageVolLookupByName(name)
    digest, passed = hashlib.blake2b(), 0
    stream = conn.newStream(0)
    try:
        volume.download(stream, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        with target.open("xb") as file:
            while piece := stream.recvFlags(_PIECE, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE):
                if isinstance(piece, bytes):
                    file.write(piece)
                    digest.update(piece)
                    passed += len(piece)
                else:
                    passed = file.seek(_hole(stream, digest), os.SEEK_CUR)
                tell(passed)
            file.truncate(passed)  # a hole at the end, too
        stream.finish()
    except BaseException:
        _abort(stream)
        raise
    return passed, digest.hexdigest()


@translated()
def send(conn: libvirt.virConnect, pool: str, name: str, source: Path, *, tell: Tell) -> str:
    """Make a volume with exactly the content of a local file; return the SHA-256 of what was sent.

    One of that name is replaced. What a failed one leaves is the caller's to delete: it may be
    another run's by then.

    Raises:
        PoolFull, PoolBusy: as they say.
        VolumeCut: not everything arrived.
    """
    digest = hashlib.sha256()
    with source.open("rb") as content:
        _send(conn, pool, name, content, source.stat().st_size, digest, tell)
    return digest.hexdigest()


@translated()
def pour(
    conn: libvirt.virConnect,
    pool: str,
    name: str,
    content: IO[bytes],
    length: int,
    *,
    tell: Tell,
) -> str:
    """Make a volume of `length` bytes with what a stream holds; return the BLAKE2b of that.

    What is nothing but zeros becomes a hole. One of that name is replaced; what a failed one
    leaves is the caller's to delete.

    Raises:
        PoolFull, PoolBusy: as they say.
        VolumeCut: not everything arrived.
    """
    digest = hashlib.blake2b()
    _send(conn, pool, name, content, length, digest, tell)
    return digest.hexdigest()


def _send(
    conn: libvirt.virConnect,
    pool: str,
    name: str,
    content: IO[bytes],
    length: int,
    digest: "hashlib._Hash | hashlib.blake2b",
    tell: Tell,
) -> None:
    storage.make_room(conn, pool, name, length)
    volume = conn.storagePoolLookupByName(pool).storageVolLookupByName(name)
    stream, passed, hole = conn.newStream(0), 0, 0
    try:
        volume.upload(stream, 0, length, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        while piece := content.read(_PIECE):
            digest.update(piece)
            passed += len(piece)
            if piece == _ZEROS[: len(piece)]:
                hole += len(piece)
            else:
                _skip(stream, hole)
                _push(stream, piece)
                hole = 0
            tell(passed)
        _skip(stream, hole)
        stream.finish()
    except BaseException:
        _abort(stream)
        raise
    storage.look_again(conn, pool)


@dataclass(frozen=True)
class Place:
    """A volume of a host."""

    conn: libvirt.virConnect
    pool: str
    name: str

    def look_up(self) -> libvirt.virStorageVol:
        """Return it as libvirt's own object, or let libvirt's error pass."""
        return self.conn.storagePoolLookupByName(self.pool).storageVolLookupByName(self.name)


@translated()
def carry(old: Place, new: Place, *, tell: Tell) -> tuple[int, str]:
    """Make a volume on another host with the content of the one here; nothing is kept between.

    Holes of a file are not sent, and are holes there, too; in the BLAKE2b they are zeros.
    Return its length and the BLAKE2b of what passed. One of that name is replaced there; what a
    failed one leaves is the caller's to delete: it may be another run's by then.

    Raises:
        VolumeAbsent, PoolAbsent, PoolFull, PoolBusy: as they say.
        VolumeCut: not everything arrived.
    """
    length = storage.length(old.conn, old.pool, old.name)
    storage.make_room(new.conn, new.pool, new.name, length)
    digest = _carry(old, new, length, tell)
    storage.look_again(new.conn, new.pool)
    return length, digest


def _carry(old: Place, new: Place, length: int, tell: Tell) -> str:
    source, target = old.look_up(), new.look_up()
    digest, passed = hashlib.blake2b(), 0
    outward, inward = old.conn.newStream(0), new.conn.newStream(0)
    try:
        source.download(outward, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
        target.upload(inward, 0, length, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
        while piece := outward.recvFlags(_PIECE, libvirt.VIR_STREAM_RECV_STOP_AT_HOLE):
            if isinstance(piece, bytes):
                digest.update(piece)
                _push(inward, piece)
                passed += len(piece)
            else:
                hole = _hole(outward, digest)
                inward.sendHole(hole)
                passed += hole
            tell(passed)
        outward.finish()
        inward.finish()
    except BaseException:
        _abort(outward)
        _abort(inward)
        raise
    if passed != length:
        raise VolumeCut("A volume was cut off while it was sent: it is sent again.")
    return digest.hexdigest()


def _hole(stream: libvirt.virStream, digest: hashlib.blake2b) -> int:
    """Return the length of the hole that comes next, which counts as zeros."""
    hole = int(stream.recvHole())
    for begin in range(0, hole, len(_ZEROS)):
        digest.update(_ZEROS[: hole - begin])
    return hole


def _skip(stream: libvirt.virStream, hole: int) -> None:
    if hole:
        stream.sendHole(hole)


def _push(stream: libvirt.virStream, piece: bytes) -> None:
    while piece:
        taken = stream.send(piece)
        if taken <= 0:
            raise VolumeCut("A volume was cut off while it was sent: it is sent again.")
        piece = piece[taken:]


def _abort(stream: libvirt.virStream) -> None:
    with suppress(libvirt.libvirtError):
        stream.abort()
