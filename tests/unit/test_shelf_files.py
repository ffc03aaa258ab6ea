"""Files on the shelf: compressed, the same to a guest, whole or not there."""

import errno
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from disk_images import qemu_img
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from innkeeper.images import packing, qemu, shelf
from innkeeper.images.failure import ImageCorrupt, ShelfFileDamaged, ShelfFull
from innkeeper.settings import settings

BASE = "image-0123456789abcdef.qcow2"
NAME = "server.12345678-1.qcow2"
MIB = 1 << 20


def write(disk: Path, *commands: str) -> None:
    argv = ["qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command))]
    subprocess.run([*argv, str(disk)], check=True, capture_output=True)


def layered(place: Path) -> tuple[Path, Path]:
    """Return a disk that overwrote, zeroed and extended its image, and that image."""
    base = place / BASE
    qemu_img("create", "-f", "qcow2", base, "8M")
    write(base, "write -P 7 0 6M")
    layer = place / "disk"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", base, layer, "16M")
    write(layer, "write -P 9 1M 1M", "write -z 3M 1M", "discard 4M 64k", "write -P 5 12M 1M")
    return layer, base


def test_a_copy_is_smaller_and_the_same_to_a_guest(home: Path) -> None:
    del home
    told: list[float] = []
    with shelf.making(NAME) as place:
        layer, base = layered(place)
        raw = place / "raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", layer, raw)
        before = hashlib.sha256(raw.read_bytes()).hexdigest()
        made = shelf.compress(layer, [base], NAME, on_progress=told.append)
        assert made.stat().st_size < layer.stat().st_size
        size, sha256 = shelf.publish(made, NAME, tell=told.append)
        kept = shelf.require_whole(NAME, size)
        beside = kept.parent / BASE  # as it lies in a pool: beside the image of that name
        base.rename(beside)
        qemu_img("convert", "-f", "qcow2", "-O", "raw", kept, raw)
        assert hashlib.sha256(raw.read_bytes()).hexdigest() == before
        assert hashlib.sha256(kept.read_bytes()).hexdigest() == sha256
        beside.unlink()
    assert told[-1] == 1.0
    assert shelf.sizes() == {NAME: size}
    shelf.remove(NAME)
    assert shelf.sizes() == {}


def test_a_disk_that_lies_on_nothing_is_kept_too(home: Path) -> None:
    del home
    with shelf.making(NAME) as place:
        layer = place / "disk"
        qemu_img("create", "-f", "qcow2", layer, "4M")
        write(layer, "write -P 3 1M 1M")
        made = shelf.compress(layer, [], NAME, on_progress=lambda _: None)
        assert qemu.same_content(layer, made, [])


def test_a_difference_is_seen(home: Path) -> None:
    del home
    with shelf.making(NAME) as place:
        layer, base = layered(place)
        made = shelf.compress(layer, [base], NAME, on_progress=lambda _: None)
        assert qemu.same_content(layer, made, [base])
        write(layer, "write -P 8 2M 64k")
        assert not qemu.same_content(layer, made, [base])


def test_a_copy_that_differs_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del home
    monkeypatch.setattr(qemu, "same_content", lambda *_, **__: False)
    with shelf.making(NAME) as place:
        layer, base = layered(place)
        with pytest.raises(ImageCorrupt, match="differs"):
            shelf.compress(layer, [base], NAME, on_progress=lambda _: None)
    assert shelf.sizes() == {}


def test_a_layer_lies_on_what_is_on_the_shelf_already(home: Path, tmp_path: Path) -> None:
    """Each layer is compressed and compared on the compressed one beneath it."""
    del home
    names = ["low.qcow2", "middle.qcow2", "top.qcow2"]
    kept: dict[str, str] = {}
    base = tmp_path / BASE
    qemu_img("create", "-f", "qcow2", base, "8M")
    write(base, "write -P 7 0 6M")
    below = base
    for number, name in enumerate(names):  # as they lie in a host's pool
        layer = tmp_path / name
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", below, layer, "8M")
        write(layer, f"write -P {number + 20} {number}M 2M", f"write -z {number + 4}M 64k")
        with shelf.making(f"{name}-1") as place:
            chain = []
            for lower in reversed(names[:number]):
                chain.append(place / lower)
                chain[-1].symlink_to(shelf.path_of(kept[lower]))
            chain.append(place / BASE)
            chain[-1].symlink_to(base)
            copy = place / "copy"
            copy.write_bytes(layer.read_bytes())
            made = shelf.compress(copy, chain, f"{name}-1", on_progress=lambda _: None)
            shelf.publish(made, made.name, tell=lambda _: None)
        kept[name], below = f"{name}-1", layer
    elsewhere = tmp_path / "another-pool"
    elsewhere.mkdir()
    (elsewhere / BASE).write_bytes(base.read_bytes())
    for name, there in kept.items():
        (elsewhere / name).write_bytes(shelf.path_of(there).read_bytes())
    contents = []
    for place in (tmp_path, elsewhere):
        raw = tmp_path / "raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", place / names[-1], raw)
        contents.append(raw.read_bytes())
    assert contents[0] == contents[1]
    assert {contents[0][n * MIB + MIB // 2] for n in range(5)} == {20, 21, 22, 7}


@tried(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["data", "zeros", "hole"]), st.integers(1, 9000)), max_size=8
    ),
    st.integers(-1, 700),
)
def test_holes_are_not_packed_and_tar_unpacks_the_same(
    parts: list[tuple[str, int]], odd: int
) -> None:
    """However data and holes follow each other, and wherever the file ends."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain = place / "plain"
        with plain.open("wb") as file:
            for kind, pages in parts:
                if kind == "hole":
                    file.seek(pages << 12, os.SEEK_CUR)
                else:
                    file.write((b"data" if kind == "data" else bytes(4)) * (pages << 2))
            file.truncate(max(file.tell() + odd, 0))
        packing.pack(plain, place / "packed", tell=lambda _: None)
        content = plain.read_bytes()
        with packing.unpacked(place / "packed") as found:
            assert found.read() == content
        subprocess.run(["tar", "-xzf", place / "packed", "-C", place], check=True)
        assert (place / packing.NAME).read_bytes() == content


def test_a_packed_hole_takes_nothing(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    with plain.open("wb") as file:
        file.truncate(1 << 30)
    packing.pack(plain, packed, tell=lambda _: None)
    assert packed.stat().st_size < 1000


@pytest.mark.parametrize("length", [0, 1, 3 * MIB + 17])
def test_other_files_are_packed_and_come_back_byte_by_byte(home: Path, length: int) -> None:
    del home
    content = (bytes(MIB) + os.urandom(MIB) + b"text" * MIB)[:length]
    told: list[float] = []
    with shelf.making(NAME) as place:
        plain = place / "copy"
        plain.write_bytes(content)
        digest = hashlib.blake2b(content).hexdigest()
        made = shelf.pack(plain, NAME, digest, on_progress=told.append)
        size, _sha256 = shelf.publish(made, NAME, tell=told.append)
    assert told == sorted(told)
    with shelf.unpacked(NAME, size) as found:
        assert found.read() == content


def test_a_packed_file_that_differs_is_not_kept(home: Path) -> None:
    del home
    digest = hashlib.blake2b(b"what the host had").hexdigest()
    with shelf.making(NAME) as place:
        (place / "copy").write_bytes(b"what the host has")
        with pytest.raises(ImageCorrupt, match="differs"):
            shelf.pack(place / "copy", NAME, digest, on_progress=lambda _: None)


@pytest.mark.parametrize("spoil", ["head", "end"])
def test_a_packed_file_that_was_damaged_is_told_as_that(
    home: Path, tmp_path: Path, spoil: str
) -> None:
    del home
    plain = tmp_path / "plain"
    plain.write_bytes(os.urandom(MIB))
    packing.pack(plain, tmp_path / "packed", tell=lambda _: None)
    packed = (tmp_path / "packed").read_bytes()
    damaged = {"head": b"PK" + packed[2:], "end": packed[: len(packed) // 2]}[spoil]
    shelf.path_of(NAME).write_bytes(damaged)
    told = pytest.raises(ShelfFileDamaged, match="cannot be unpacked")
    with told, shelf.unpacked(NAME, len(damaged)) as found:
        found.read()


def test_a_layer_cannot_name_a_file_of_this_machine(home: Path, tmp_path: Path) -> None:
    """What the header of a disk names is not opened: the base is ours to say."""
    del home
    secret = tmp_path / "secret.qcow2"
    qemu_img("create", "-f", "qcow2", secret, "4M")
    write(secret, "write -P 66 0 1M")
    with shelf.making(NAME) as place:
        layer = place / "disk"
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", secret, layer, "4M")
        made = shelf.compress(layer, [], NAME, on_progress=lambda _: None)
        raw = place / "raw"
        qemu_img("convert", "-f", "qcow2", "-O", "raw", made, raw)
        assert set(raw.read_bytes()) == {0}


def test_no_space_is_told_as_that(home: Path) -> None:
    del home
    with pytest.raises(ShelfFull), shelf.making(NAME):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), shelf.making(NAME):
        raise PermissionError
    with pytest.raises(ShelfFull, match="INNKEEPER_SHELF"):
        shelf.require_room(1 << 62)
    assert shelf.sizes() == {}


def test_what_is_not_whole_is_refused(home: Path) -> None:
    del home
    with pytest.raises(ShelfFileDamaged, match="missing"):
        shelf.require_whole(NAME, 3)
    shelf.path_of(NAME).write_bytes(b"12")
    with pytest.raises(ShelfFileDamaged, match="2 bytes long, it should have 3 bytes"):
        shelf.require_whole(NAME, 3)


def test_the_shelf_may_be_elsewhere(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings().shelf == home / "shelf"
    monkeypatch.setenv("INNKEEPER_SHELF", str(tmp_path / "big"))
    settings.cache_clear()
    assert shelf.folder() == tmp_path / "big"
