"""Fixtures of the tests that import images: where they come from."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_site import Site, serving

from innkeeper.images import fetch


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server of files; what breaks off is asked for again at once."""
    monkeypatch.setattr(fetch, "RETRY_SECONDS", 0.01)
    with serving() as made:
        yield made


@pytest.fixture
def imports(home: Path) -> Path:
    """The folder from which files may be imported."""
    folder = home / "imports"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk with a boot signature and something in it."""
    path = tmp_path / "disk.raw"
    content = bytearray(os.urandom(2 << 20))
    content[510:512] = b"\x55\xaa"
    path.write_bytes(content)
    return path
