"""Images imported over loopback HTTP and from files, good and bad, whole and cut off."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from innkeeper.errors import OperationCancelled
from innkeeper.images import fetch as fetching
from innkeeper.images import qemu, store
from innkeeper.images.failure import (
    ChecksumDiffers,
    ImageCorrupt,
    ImageRefused,
    ImageTooLarge,
    ImportBusy,
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
)
from innkeeper.images.fetch import fetch, incoming
from innkeeper.images.importing import Imported, import_image
from innkeeper.settings import settings

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
BLOCK = 512


@dataclass
class Site:
    """A server of files that can be told to break off."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: list[int] = field(default_factory=list)
    """For each coming answer, after how many bytes it breaks off."""
    etag: str | None = '"one"'
    ranges: list[str | None] = field(default_factory=list)
    status: int | None = None
    slowly: float = 0.0


class Handler(BaseHTTPRequestHandler):
    """Serve `site.files` with ranges, as a plain web server does."""

    site: Site

    def do_GET(self) -> None:
        site = self.site
        content = site.files.get(self.path)
        wanted = self.headers.get("Range")
        site.ranges.append(wanted)
        if content is None or site.status:
            self.send_error(site.status or 404)
            return
        start = 0
        if wanted and self.headers.get("If-Range") == site.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        if site.etag:
            self.send_header("ETag", site.etag)
        self.end_headers()
        body = content[start:]
        if site.cut_after:
            body = body[: site.cut_after.pop(0)]
        for offset in range(0, len(body), 1 << 16):
            self.wfile.write(body[offset : offset + (1 << 16)])
            time.sleep(site.slowly)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Site(f"http://127.0.0.1:{server.server_port}")
        Handler.site = made
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "RETRY_SECONDS", 0.01)


@pytest.fixture
def imports(home: Path) -> Path:
    """The folder from which files may be imported."""
    folder = home / "imports"
    folder.mkdir()
    return folder


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with a boot signature and something in it."""
    path = tmp_path / "disk.raw"
    content = bytearray(os.urandom(2 << 20))
    content[510:512] = b"\x55\xaa"
    path.write_bytes(content)
    return path


def as_format(disk: Path, kind: str, *options: str) -> Path:
    path = disk.with_suffix(f".{kind}")
    qemu_img("convert", "-f", "raw", "-O", kind, *options, disk, path)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ready() -> list[Path]:
    return sorted(settings().image_store.glob("*.qcow2"))


def waiting() -> list[Path]:
    return [p for p in (settings().image_store / ".incoming").rglob("*") if p.suffix != ".lock"]


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


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    site: Site, disk: Path, home: Path
) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a"] = content
    site.cut_after = [300_000, 500_000]
    done = import_image(f"{site.url}/a", expected_sha256=sha256(content))
    assert done.sha256 == sha256(content)
    assert len(site.ranges) == 3
    assert site.ranges[0] is None
    assert all(site.ranges[1:])


def test_a_killed_download_goes_on_where_it_stopped(site: Site, disk: Path, home: Path) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a"] = content
    site.slowly = 0.05
    program = "import sys; from innkeeper.images.importing import import_image as i; i(sys.argv[1])"
    worker = subprocess.Popen([sys.executable, "-c", program, f"{site.url}/a"])
    part = None
    while part is None or part.stat().st_size < 400_000:
        assert worker.poll() is None, "the import ended before it could be killed"
        time.sleep(0.02)
        part = next((settings().image_store / ".incoming").glob("*/content.part"), None)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not ready()
    site.slowly = 0.0
    arrived = part.stat().st_size
    done = import_image(f"{site.url}/a", expected_sha256=sha256(content))
    assert done.path.read_bytes() == content
    assert site.ranges[1:] == [f"bytes={arrived}-"]


def test_content_that_changed_meanwhile_is_fetched_anew(site: Site, disk: Path, home: Path) -> None:
    site.files["/a"] = as_format(disk, "qcow2").read_bytes()
    with incoming(f"{site.url}/a", settings().image_store) as folder:
        site.cut_after = [400_000] + [0] * 3
        with pytest.raises(SourceUnavailable, match="broke off after 400000 bytes"):
            fetch(f"{site.url}/a", folder)
    content = site.files["/a"][::-1]
    site.files["/a"], site.etag = content, '"two"'
    with incoming(f"{site.url}/a", settings().image_store) as folder:
        assert fetch(f"{site.url}/a", folder).sha256 == sha256(content)
    assert site.ranges[-1] == "bytes=400000-"


def test_without_a_validator_nothing_is_resumed(site: Site, disk: Path, home: Path) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a"], site.etag = content, None
    site.cut_after = [400_000]
    assert import_image(f"{site.url}/a").sha256 == sha256(content)
    assert site.ranges == [None, None]


def test_a_wrong_checksum_is_never_usable(site: Site, disk: Path, home: Path) -> None:
    site.files["/a"] = as_format(disk, "qcow2").read_bytes()
    with pytest.raises(ChecksumDiffers, match="give the right checksum"):
        import_image(f"{site.url}/a", expected_sha256="0" * 64)
    assert not ready()
    assert not waiting()


def test_an_import_that_was_published_before_is_not_fetched_again(
    site: Site, disk: Path, home: Path
) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a"] = content
    first = import_image(f"{site.url}/a")
    assert import_image(f"{site.url}/a", expected_sha256=first.sha256) == first
    assert len(site.ranges) == 1


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
    options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"
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


def test_what_the_server_says_decides_about_a_retry(site: Site, home: Path) -> None:
    with pytest.raises(SourceMissing, match="404"):
        import_image(f"{site.url}/nothing")
    site.files["/a"] = b"x"
    site.status = 503
    with pytest.raises(SourceUnavailable, match="503"):
        import_image(f"{site.url}/a")
    with pytest.raises(SourceUnavailable):
        import_image("http://127.0.0.1:9/a")


@pytest.mark.parametrize(
    "source",
    [
        "ftp://host/a",
        "relative/path",
        "json:{}",
        "http://",
        "http://me:secret@host/a",
        "file://h/a",
    ],
)
def test_odd_sources_are_refused(source: str, home: Path) -> None:
    with pytest.raises(SourceRefused):
        import_image(source)


def test_one_source_is_imported_once_at_a_time(site: Site, home: Path) -> None:
    with incoming(f"{site.url}/a", settings().image_store), pytest.raises(ImportBusy):
        import_image(f"{site.url}/a")


def test_a_watcher_can_stop_an_import(site: Site, disk: Path, home: Path) -> None:
    site.files["/a"] = disk.read_bytes()

    def stop(phase: str, fraction: float) -> None:
        if phase == "preparing" and fraction > 0:
            raise OperationCancelled("enough")

    with pytest.raises(OperationCancelled):
        import_image(f"{site.url}/a", on_phase=stop)
    assert not ready()


def test_abandoned_imports_are_swept(home: Path) -> None:
    place = settings().image_store
    with incoming("http://host/old", place) as old:
        (old / "content.part").write_bytes(b"x")
        os.utime(old / "content.part", (1, 1))
        os.utime(old, (1, 1))
    with incoming("http://host/new", place) as new:
        (new / "content.part").write_bytes(b"x")
    assert store.sweep(place, 3600) == [old.name]
    assert new.exists()
    assert not old.exists()
