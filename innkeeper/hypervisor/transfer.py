"""Content of volumes: what a file claims to be, and sending and fetching it as a stream."""

import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import libvirt

from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor.errors import translated

Source = Path | bytes

_QCOW2_MAGIC = b"QFI\xfb"
_QCOW2_CAPACITY = slice(24, 32)  # big-endian, docs/interop/qcow2.txt of QEMU
_QCOW2_BACKING = slice(8, 16)
_QCOW2_HEADER = 72


def formatted_capacity(source: Source, fmt: str) -> tuple[int, int]:
    """Return the disk size that the content stands for, and the content's length, in bytes.

    Raises:
        InvalidRequest: it is not of that format, or leans on a backing file of its own.
    """
    with _reader(source) as reader:
        header = reader.read(_QCOW2_HEADER)
    length = len(source) if isinstance(source, bytes) else source.stat().st_size
    if fmt == "raw":
        return length, length
    if fmt != "qcow2":
        raise InvalidRequest(f"Volumes are raw or qcow2, not {fmt}: convert the image first.")
    if len(header) < _QCOW2_HEADER or not header.startswith(_QCOW2_MAGIC):
        raise InvalidRequest("The content is not a qcow2 image: import the image again.")
    if any(header[_QCOW2_BACKING]):
        raise InvalidRequest(
            "The qcow2 image leans on a backing file: flatten it with qemu-img convert first."
        )
    return struct.unpack(">Q", header[_QCOW2_CAPACITY])[0], length


@translated()
def send(
    conn: libvirt.virConnect, volume: libvirt.virStorageVol, source: Source, length: int
) -> None:
    """Stream the content into the volume (libvirt asks for pieces of up to 256 KiB)."""
    stream = conn.newStream(0)
    try:
        volume.upload(stream, 0, length)
        with _reader(source) as reader:
            stream.sendAll(lambda _stream, size, file: file.read(size), reader)
        stream.finish()
    except BaseException:
        _abort(stream)
        raise


@translated()
def fetch(
    conn: libvirt.virConnect, volume: libvirt.virStorageVol, offset: int, length: int
) -> bytes:
    """Return `length` bytes of a volume's file from `offset` on."""
    stream = conn.newStream(0)
    content = BytesIO()
    try:
        volume.download(stream, offset, length)
        stream.recvAll(lambda _stream, data, file: file.write(data), content)
        stream.finish()
    except BaseException:
        _abort(stream)
        raise
    return content.getvalue()


def _reader(source: Source) -> BinaryIO:
    return BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _abort(stream: libvirt.virStream) -> None:
    with suppress(libvirt.libvirtError):
        stream.abort()
