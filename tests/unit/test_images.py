"""What an image is by its content, where it may come from, and how it gets its name."""

import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.errors import PermanentError
from innkeeper.images import qemu, source, store
from innkeeper.images.failure import ImageCorrupt, ImageRefused, SourceRefused
from innkeeper.images.source import FileSource, UrlSource


def qcow2(*, version: int = 3, backing: int = 0, encryption: int = 0, features: int = 0) -> bytes:
    """Return a header as in QEMU's docs/interop/qcow2.txt."""
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, 16, 1 << 30, encryption)
    return (head.ljust(72, b"\0") + struct.pack(">Q", features)).ljust(512, b"\0")


def detected(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "image"
    path.write_bytes(content)
    return qemu.detect(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (qcow2(), "qcow2"),
        (qcow2(version=2, features=4), "qcow2"),  # version 2 has no feature bits
        (b"KDMV" + bytes(8) + struct.pack("<Q", 4096) + bytes(492), "vmdk"),
        (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(64), "vdi"),
        (b"vhdxfile" + bytes(504), "vhdx"),
        (bytes(510) + b"\x55\xaa", "raw"),
    ],
)
def test_formats_are_known_by_content(tmp_path: Path, content: bytes, expected: str) -> None:
    assert detected(tmp_path, content) == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (qcow2(backing=104), "backing file"),
        (qcow2(features=4), "external data file"),
        (qcow2(encryption=2), "encrypted"),
        (b"KDMV" + bytes(508), "other files"),
        (b'# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n', "no disk image"),
        (b"\x1f\x8b\x08" + bytes(512), "gzip"),
        (b"\xfd7zXZ\x00" + bytes(512), "xz"),
        (b"json:{}", "no disk image"),
        (b"", "no disk image"),
    ],
)
def test_what_could_reach_other_files_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    with pytest.raises(ImageRefused, match=why):
        detected(tmp_path, content)


def test_half_a_header_is_damage(tmp_path: Path) -> None:
    with pytest.raises(ImageCorrupt, match="ends within its header"):
        detected(tmp_path, qcow2()[:30])


@given(st.binary(max_size=600))
def test_no_content_upsets_the_detection(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    try:
        detected(tmp_path_factory.getbasetemp(), content)
    except PermanentError as refused:
        assert str(refused)  # noqa: PT017


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"backing-filename": "x"}, "backing"),
        ({"full-backing-filename": "json:{}"}, "backing"),
        ({"encrypted": True}, "encrypted"),
        ({"format-specific": {"data": {"data-file": "x"}}}, "data file"),
        ({"format-specific": {"data": {"extents": [{"filename": "/etc/passwd"}]}}}, "another file"),
    ],
)
def test_what_qemu_finds_is_refused_too(told: dict[str, object], why: str) -> None:
    with pytest.raises(ImageRefused, match=why):
        qemu._refuse_referring(told, Path("/image"))
    harmless = {"format-specific": {"data": {"extents": [{"filename": "/image"}]}}}
    qemu._refuse_referring(harmless, Path("/image"))


def test_sources_are_urls_or_absolute_paths() -> None:
    assert source.parse("https://host/a.qcow2") == UrlSource("https://host/a.qcow2")
    assert source.parse("file:///a%20b") == FileSource(Path("/a b"))
    assert source.parse(Path("/a")) == FileSource(Path("/a"))


@given(st.text(max_size=40).filter(lambda text: not text.startswith("/")))
def test_anything_else_is_refused(text: str) -> None:
    try:
        assert isinstance(source.parse(text), UrlSource | FileSource)
        assert text.lower().startswith(("http", "file:"))
    except SourceRefused:
        pass


def test_publishing_twice_is_publishing_once(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_bytes(b"content")
    second.write_bytes(b"content")
    digest = store.hash_of(first)
    place = store.publish(first, digest, tmp_path)
    assert place == tmp_path / f"{digest}.qcow2"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert store.publish(second, digest, tmp_path) == place
    assert not second.exists()
