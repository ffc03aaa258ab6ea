"""Images imported from files and over loopback HTTP: what becomes usable, and what never does."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from disk_images import as_format, qemu_img, ready, sha256, waiting
from file_site import Site

from innkeeper.errors import OperationCancelled
from innkeeper.images import qemu, store
from innkeeper.images.failure import (
    ChecksumDiffers,
    ImageCorrupt,
    ImageRefused,
    ImageTooLarge,
    SourceMissing,
    SourceRefused,
)
from innkeeper.images.fetch import fetch, incoming
from innkeeper.images.importing import Imported, import_image
from innkeeper.settings import settings

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def same_content(image: Path, disk: Path) -> None:
    qemu_img("compare", "-f", "qcow2", "-F", "raw", image, disk)


def test_a_qcow2_image_is_published_as_it_is(site: Site, disk: Path, home: Path) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a.qcow2"] = content
    phases: list[tuple[str, float]] = []
    done = import_image(
        f"{site.url}/a.qcow2",
        expected_sha256=sha256(content).upper(),
        on_phase=lambda phase, fraction: phases.append((phase, fraction)),
    )
    assert done == Imported(
        settings().image_store / f"{sha256(content)}.qcow2",
        sha256(content),
        len(content),
        disk.stat().st_size,
        sha256(content),
    )
    assert done.path.read_bytes() == content
    assert done.path.stat().st_mode & 0o077 == 0
    assert ("importing", 1.0) in phases
    assert phases[-1][0] == "preparing"
    assert not waiting()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("raw", ()),
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vdi", ()),
        ("vhdx", ()),
    ],
)
def test_other_formats_become_qcow2(
    site: Site, disk: Path, home: Path, kind: str, options: tuple[str, ...]
) -> None:
    image = disk if kind == "raw" else as_format(disk, kind, *options)
    site.files["/disk"] = image.read_bytes()
    phases: list[tuple[str, float]] = []
    done = import_image(
        f"{site.url}/disk", on_phase=lambda phase, fraction: phases.append((phase, fraction))
    )
    assert qemu.inspect(done.path).format == "qcow2"
    assert done.sha256 == store.hash_of(done.path)
    assert done.source_sha256 == sha256(image.read_bytes())
    assert done.virtual_size == disk.stat().st_size
    assert ("preparing", 1.0) in phases
    same_content(done.path, disk)
    assert not waiting()


def test_a_file_in_the_folder_of_imports_is_copied(disk: Path, imports: Path) -> None:
    image = as_format(disk, "qcow2")
    here = imports / "my image.qcow2"
    here.write_bytes(image.read_bytes())
    done = import_image(f"file://{str(here).replace(' ', '%20')}")
    assert here.exists()
    assert done.path.read_bytes() == image.read_bytes()
    assert import_image(str(here)) == done


def test_files_elsewhere_are_refused(disk: Path, imports: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceRefused, match="put it below"):
        import_image(str(disk))
    (imports / "link.qcow2").symlink_to("/etc/passwd")
    with pytest.raises(SourceRefused):
        import_image(str(imports / "link.qcow2"))
    with pytest.raises(SourceRefused):
        import_image(f"{imports}/../disk.raw")
    with pytest.raises(SourceRefused):  # says nothing about what exists elsewhere
        import_image("/root/nothing-here")
    with pytest.raises(SourceMissing):
        import_image(str(imports / "nothing-here"))
    os.mkfifo(imports / "pipe")
    with pytest.raises(SourceRefused, match="regular file"):
        import_image(str(imports / "pipe"))
    assert not ready()


def test_a_wrong_checksum_is_never_usable(site: Site, disk: Path, home: Path) -> None:
    site.files["/a"] = as_format(disk, "qcow2").read_bytes()
    with pytest.raises(ChecksumDiffers, match="give the right checksum"):
        import_image(f"{site.url}/a", expected_sha256="0" * 64)
    assert not ready()
    assert not waiting()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda data: data[: len(data) // 2], ImageCorrupt),
        (lambda data: data[:100], ImageCorrupt),
        (lambda data: data[:65536] + b"\xff" * 65536 + data[131072:], ImageCorrupt),
        (lambda data: b"\x1f\x8b" + data, ImageRefused),
        (lambda _: b"<html>not found</html>" * 100, ImageRefused),
        (lambda _: b"", ImageRefused),
    ],
    ids=["truncated", "only a header", "bad metadata", "compressed", "a web page", "empty"],
)
def test_what_is_no_sound_image_is_never_usable(
    site: Site, disk: Path, home: Path, spoil: Any, error: type[Exception]
) -> None:
    site.files["/a"] = spoil(as_format(disk, "qcow2").read_bytes())
    with pytest.raises(error):
        import_image(f"{site.url}/a")
    assert not ready()
    assert not waiting()


def test_no_image_reaches_other_files(disk: Path, imports: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(disk.read_bytes())
    attacks = {name: imports / name for name in ("backing", "json", "data", "flat", "parent")}
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", attacks["backing"])
    nested = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{secret}"}}}}'
    qemu_img("create", "-f", "qcow2", "-b", nested, "-F", "raw", attacks["json"], "2M")
    outside = f"data_file={tmp_path}/outside,data_file_raw=on"
    qemu_img("create", "-f", "qcow2", "-o", outside, attacks["data"], "2M")
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", attacks["flat"], "2M")
    base = as_format(disk, "vmdk")
    qemu_img("create", "-f", "vmdk", "-b", base, "-F", "vmdk", attacks["parent"])
    for path in attacks.values():
        with pytest.raises(ImageRefused):
            import_image(str(path))
    assert not ready()


def test_a_list_of_files_in_disguise_is_refused(disk: Path, imports: Path) -> None:
    image = bytearray(as_format(disk, "vmdk").read_bytes())
    image[12:20] = bytes(8)  # the capacity: zero makes QEMU read the list
    (imports / "a.vmdk").write_bytes(image)
    with pytest.raises(ImageRefused, match="refers to other files"):
        import_image(str(imports / "a.vmdk"))


def test_an_encrypted_image_is_refused(disk: Path, imports: Path) -> None:
    secret = imports / "a.qcow2"
    # Not LUKS: qemu-img times its key derivation first, and gives up ("Unable to get accurate CPU
    # usage") on a machine that counts a thread's processor time in coarse steps.
    options = "encrypt.format=aes,encrypt.key-secret=key"
    qemu_img(
        "create", "-f", "qcow2", "--object", "secret,id=key,data=x", "-o", options, secret, "2M"
    )
    with pytest.raises(ImageRefused, match="encrypted"):
        import_image(str(secret))


def test_sizes_are_bounded(site: Site, disk: Path, home: Path, imports: Path) -> None:
    site.files["/a"] = disk.read_bytes()
    with incoming("x", settings().image_store) as folder:
        for etag in ('"one"', None):
            site.etag = etag
            with pytest.raises(ImageTooLarge, match="raise INNKEEPER_IMAGE_SIZE_LIMIT_GIB"):
                fetch(f"{site.url}/a", folder, limit_bytes=1 << 20)
        assert not list(folder.iterdir())
    qemu_img("create", "-f", "qcow2", imports / "bomb.qcow2", "8T")
    with pytest.raises(ImageTooLarge, match="8192 GiB"):
        import_image(str(imports / "bomb.qcow2"))
    assert not ready()


def test_a_watcher_can_stop_an_import(site: Site, disk: Path, home: Path) -> None:
    site.files["/a"] = disk.read_bytes()

    def stop(phase: str, fraction: float) -> None:
        if phase == "preparing" and fraction > 0:
            raise OperationCancelled("enough")

    with pytest.raises(OperationCancelled):
        import_image(f"{site.url}/a", on_phase=stop)
    assert not ready()
