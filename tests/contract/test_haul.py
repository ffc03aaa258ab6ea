"""Whole volumes as streams, and checksums by the host: on a real libvirt only."""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from innkeeper.host import checksum
from innkeeper.host.local import LocalChannel
from innkeeper.hypervisor import haul, storage
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.hypervisor.errors import VolumeAbsent
from innkeeper.lab.fleet import LabHost

if TYPE_CHECKING:
    from tests.contract.conftest import Host, RunningLab

pytestmark = pytest.mark.parametrize(
    "host", [pytest.param("lab", marks=pytest.mark.lab)], indirect=True
)

POOL = "innkeeper"
CONTENT = os.urandom(3 * (256 << 10) + 17)
NAME = f"{uuid4()}-root.qcow2"


def _silent(_passed: int) -> None:
    return


def _sent(host: "Host", tmp_path: Path, content: bytes = CONTENT) -> Path:
    source = tmp_path / "source"
    source.write_bytes(content)
    told: list[int] = []
    sent = haul.send(host.conn, POOL, NAME, source, tell=told.append)
    assert sent == hashlib.sha256(content).hexdigest()
    assert told[-1] == len(content)
    return storage.volume_path(host.conn, POOL, NAME)


def test_what_is_sent_arrives_whole_private_and_replaces(host: "Host", tmp_path: Path) -> None:
    _sent(host, tmp_path, b"before")
    path = _sent(host, tmp_path)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_brought_is_the_same(host: "Host", tmp_path: Path) -> None:
    _sent(host, tmp_path)
    target, told = tmp_path / "target", []
    length, digest = haul.bring(host.conn, POOL, NAME, target, tell=told.append)
    assert target.read_bytes() == CONTENT
    assert (length, digest) == (len(CONTENT), hashlib.blake2b(CONTENT).hexdigest())
    assert told[-1] == length


def test_the_host_computes_the_same(host: "Host", tmp_path: Path) -> None:
    path, channel = _sent(host, tmp_path), LocalChannel()  # a lab's pool has one path everywhere
    checksum.settle(channel, path, len(CONTENT))
    assert checksum.sha256(channel, path, 0) == hashlib.sha256(CONTENT).hexdigest()
    assert checksum.blake2b(channel, path, 0) == hashlib.blake2b(CONTENT).hexdigest()


def test_who_stops_it_can_begin_again(host: "Host", tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)

    def stop(_passed: int) -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        haul.send(host.conn, POOL, NAME, source, tell=stop)
    _sent(host, tmp_path)  # the connection is as good as before
    with pytest.raises(KeyError):
        haul.bring(host.conn, POOL, NAME, tmp_path / "target", tell=stop)
    assert NAME in storage.volume_names(host.conn, POOL)


def test_what_is_not_there_cannot_be_brought(host: "Host", tmp_path: Path) -> None:
    with pytest.raises(VolumeAbsent):
        haul.bring(host.conn, POOL, NAME, tmp_path / "target", tell=_silent)


@pytest.fixture
def second(running_lab: "RunningLab") -> Iterator[LabHost]:
    found = running_lab.lab.up(2)[1]
    storage.ensure_pool(connect(found.uri), POOL, Path(found.pool_path))
    yield found
    storage.delete_volume(connect(found.uri), POOL, NAME)
    forget(found.uri)


ends = pytest.mark.parametrize("end", [b"the end", b""], ids=["ends in data", "ends in a hole"])
SIZE = (9 << 20) + 1024


def _with_holes(host: "Host", end: bytes) -> Path:
    source = storage.ensure_volume(host.conn, POOL, NAME, SIZE, fmt="raw")
    with source.open("r+b") as file:
        for offset in (0, 5 << 20):
            file.seek(offset)
            file.write(CONTENT)
        file.seek(SIZE - len(end))
        file.write(end)
    return source


@ends
def test_holes_that_are_brought_are_holes_and_are_poured_back_as_such(
    host: "Host", tmp_path: Path, end: bytes
) -> None:
    content, target, told = _with_holes(host, end).read_bytes(), tmp_path / "target", []
    length, digest = haul.bring(host.conn, POOL, NAME, target, tell=told.append)
    assert target.read_bytes() == content
    assert (length, digest) == (SIZE, hashlib.blake2b(content).hexdigest())
    assert told[-1] == SIZE
    with target.open("rb") as file:
        assert haul.pour(host.conn, POOL, NAME, file, SIZE, tell=told.append) == digest
    back = storage.volume_path(host.conn, POOL, NAME)
    assert back.read_bytes() == content
    assert stat.S_IMODE(back.stat().st_mode) == 0o600
    for path in (target, back):
        assert path.stat().st_blocks * 512 < 4 << 20, "holes are holes"


@ends
def test_what_is_carried_is_the_same_and_keeps_its_holes(
    host: "Host", second: LabHost, end: bytes
) -> None:
    size, source = SIZE, _with_holes(host, end)
    content, told = source.read_bytes(), []
    new = connect(second.uri)
    length, digest = haul.carry(
        haul.Place(host.conn, POOL, NAME), haul.Place(new, POOL, NAME), tell=told.append
    )
    there = storage.volume_path(new, POOL, NAME)
    assert there != source
    assert there.read_bytes() == content
    assert (length, digest) == (size, hashlib.blake2b(content).hexdigest())
    assert told[-1] == size
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    assert there.stat().st_blocks * 512 < 4 << 20, "holes are holes"
