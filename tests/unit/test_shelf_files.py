"""Files on the shelf: compressed, the same to a guest, whole or not there."""

import errno
import hashlib
import subprocess
from pathlib import Path

import pytest
from disk_images import qemu_img

from innkeeper.images import qemu, shelf
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
        made = shelf.compress(layer, base, NAME, on_progress=told.append)
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
        made = shelf.compress(layer, None, NAME, on_progress=lambda _: None)
        assert qemu.same_content(layer, made, None)


def test_a_difference_is_seen(home: Path) -> None:
    del home
    with shelf.making(NAME) as place:
        layer, base = layered(place)
        made = shelf.compress(layer, base, NAME, on_progress=lambda _: None)
        assert qemu.same_content(layer, made, base)
        write(layer, "write -P 8 2M 64k")
        assert not qemu.same_content(layer, made, base)


def test_a_copy_that_differs_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del home
    monkeypatch.setattr(qemu, "same_content", lambda *_, **__: False)
    with shelf.making(NAME) as place, pytest.raises(ImageCorrupt, match="differs"):
        shelf.compress(*layered(place), NAME, on_progress=lambda _: None)
    assert shelf.sizes() == {}


def test_a_layer_cannot_name_a_file_of_this_machine(home: Path, tmp_path: Path) -> None:
    """What the header of a disk names is not opened: the base is ours to say."""
    del home
    secret = tmp_path / "secret.qcow2"
    qemu_img("create", "-f", "qcow2", secret, "4M")
    write(secret, "write -P 66 0 1M")
    with shelf.making(NAME) as place:
        layer = place / "disk"
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", secret, layer, "4M")
        made = shelf.compress(layer, None, NAME, on_progress=lambda _: None)
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
