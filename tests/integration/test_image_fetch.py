"""Images fetched over loopback HTTP: cut off, killed, changed meanwhile, refused."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disk_images import as_format, ready, sha256
from file_site import Site

from innkeeper.images import store
from innkeeper.images.failure import ImportBusy, SourceMissing, SourceRefused, SourceUnavailable
from innkeeper.images.fetch import fetch, incoming
from innkeeper.images.importing import import_image
from innkeeper.settings import settings

pytestmark = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


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


def test_an_import_that_was_published_before_is_not_fetched_again(
    site: Site, disk: Path, home: Path
) -> None:
    content = as_format(disk, "qcow2").read_bytes()
    site.files["/a"] = content
    first = import_image(f"{site.url}/a")
    assert import_image(f"{site.url}/a", expected_sha256=first.sha256) == first
    assert len(site.ranges) == 1


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
