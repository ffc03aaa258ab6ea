"""Pools and volumes: the same on the test driver and on a real libvirt."""

import stat
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.errors import (
    ImageUnusable,
    NameTaken,
    PoolAbsent,
    VolumeAbsent,
    VolumeDiffers,
)

if TYPE_CHECKING:
    from tests.contract.conftest import Host

on_the_lab = pytest.mark.parametrize(
    "host", [pytest.param("lab", marks=pytest.mark.lab)], indirect=True
)


POOL = "innkeeper"
MIB = 1024 * 1024


def _qcow2(capacity: int, backing: int = 0) -> bytes:
    """Return an empty image: header, one empty L1 table, a refcount table and block."""
    cluster = 65536
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 2, backing, 0, 16, capacity, 0),
        *(1, cluster, 2 * cluster, 1, 0, 0),
    )
    refcounts = struct.pack(">Q", 3 * cluster)
    block = struct.pack(">4H", 1, 1, 1, 1)
    return b"".join(part.ljust(cluster, b"\0") for part in (header, b"", refcounts, block))


def test_ensuring_a_pool_twice_changes_nothing(host: "Host") -> None:
    storage.ensure_pool(host.conn, POOL, host.pool_path)
    storage.ensure_pool(host.conn, POOL, host.pool_path)
    assert host.conn.storagePoolLookupByName(POOL).isActive()


def test_a_pool_elsewhere_is_refused(host: "Host") -> None:
    with pytest.raises(NameTaken, match="exists in"):
        storage.ensure_pool(host.conn, POOL, "/elsewhere")


def test_a_volume_is_ensured_once(host: "Host") -> None:
    path = storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB)
    assert path == host.pool_path / "a.qcow2"
    assert storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB) == path
    assert storage.volume_path(host.conn, POOL, "a.qcow2") == path
    assert storage.volume_names(host.conn, POOL) == ["a.qcow2"]


def test_a_volume_stands_on_its_backing_file_at_any_larger_size(host: "Host") -> None:
    base = storage.ensure_volume(host.conn, POOL, "base.qcow2", 10 * MIB)
    for name, size in (("same.qcow2", 10 * MIB), ("odd.qcow2", 20 * MIB + 1)):
        storage.ensure_volume(host.conn, POOL, name, size, base)
        storage.ensure_volume(host.conn, POOL, name, size, base)
        volume = host.conn.storageVolLookupByPath(str(host.pool_path / name))
        assert volume.info()[1] >= size
        assert str(base) in volume.XMLDesc()


def test_a_volume_smaller_than_its_backing_file_is_refused(host: "Host") -> None:
    base = storage.ensure_volume(host.conn, POOL, "base.qcow2", 10 * MIB)
    with pytest.raises(InvalidRequest, match="smaller than its image"):
        storage.ensure_volume(host.conn, POOL, "small.qcow2", 9 * MIB, base)
    assert storage.volume_names(host.conn, POOL) == ["base.qcow2"]


def test_an_absent_backing_file_is_named(host: "Host") -> None:
    with pytest.raises(VolumeAbsent, match=r"nothing\.qcow2"):
        storage.ensure_volume(host.conn, POOL, "a.qcow2", MIB, host.pool_path / "nothing.qcow2")


def test_a_volume_that_differs_is_replaced_only_on_demand(host: "Host") -> None:
    base = storage.ensure_volume(host.conn, POOL, "base.qcow2", MIB)
    storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB)
    with pytest.raises(VolumeDiffers, match="capacity"):
        storage.ensure_volume(host.conn, POOL, "a.qcow2", 12 * MIB)
    with pytest.raises(VolumeDiffers, match="backing file"):
        storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB, base)
    storage.ensure_volume(host.conn, POOL, "a.qcow2", 12 * MIB, base, replace=True)
    storage.ensure_volume(host.conn, POOL, "a.qcow2", 12 * MIB, base)


def test_deleting_tolerates_absence(host: "Host") -> None:
    storage.ensure_volume(host.conn, POOL, "a.qcow2", MIB)
    storage.delete_volume(host.conn, POOL, "a.qcow2")
    storage.delete_volume(host.conn, POOL, "a.qcow2")
    storage.delete_volume(host.conn, "no-such-pool", "a.qcow2")
    assert storage.volume_names(host.conn, POOL) == []


def test_an_absent_pool_or_volume_is_named(host: "Host") -> None:
    with pytest.raises(PoolAbsent, match="no-such-pool"):
        storage.ensure_volume(host.conn, "no-such-pool", "a.qcow2", MIB)
    with pytest.raises(VolumeAbsent, match="nothing"):
        storage.volume_path(host.conn, POOL, "nothing")


def test_an_upload_is_the_content_and_private(host: "Host", tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000  # not a whole number of stream pieces
    file = tmp_path / "seed"
    file.write_bytes(content)
    for source in (content, file):
        path = storage.upload(host.conn, POOL, "seed.iso", source, "raw")
        if host.real:
            assert path.read_bytes() == content
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert storage.volume_names(host.conn, POOL) == ["seed.iso"]
    assert host.conn.storageVolLookupByPath(str(path)).info()[1] == len(content)


def test_a_shorter_upload_replaces_a_longer_one(host: "Host") -> None:
    storage.upload(host.conn, POOL, "seed.iso", b"long" * 50_000, "raw")
    path = storage.upload(host.conn, POOL, "seed.iso", b"short", "raw")
    if host.real:
        assert path.read_bytes() == b"short"


def test_an_uploaded_image_can_be_stood_on(host: "Host") -> None:
    path = storage.upload(host.conn, POOL, "base.qcow2", _qcow2(10 * MIB), "qcow2", private=False)
    assert host.conn.storageVolLookupByPath(str(path)).info()[1] == 10 * MIB
    storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB, path)
    if host.real:
        assert (
            "<compat>1.1</compat>"
            in host.conn.storageVolLookupByPath(str(host.pool_path / "a.qcow2")).XMLDesc()
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("content", "fmt", "reason"),
    [
        (b"<html>not an image</html>", "qcow2", "not a qcow2"),
        (b"", "qcow2", "not a qcow2"),
        (_qcow2(MIB, backing=512), "qcow2", "backing file"),
        (b"x", "vmdk", "raw or qcow2"),
    ],
)
def test_a_bad_image_is_refused_before_anything_is_made(
    host: "Host", content: bytes, fmt: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        storage.upload(host.conn, POOL, "bad", content, fmt)
    assert storage.volume_names(host.conn, POOL) == []


@on_the_lab
def test_a_corrupt_image_is_named(host: "Host") -> None:
    image = _qcow2(10 * MIB)
    corrupt = image[:20] + b"\xff" * 4 + image[24:]  # the cluster size
    path = storage.upload(host.conn, POOL, "base.qcow2", corrupt, "qcow2")
    with pytest.raises(ImageUnusable, match="import the image again"):
        storage.ensure_volume(host.conn, POOL, "a.qcow2", 10 * MIB, path)
    assert storage.volume_names(host.conn, POOL) == ["base.qcow2"]


def test_pool_capacity_adds_up(host: "Host") -> None:
    space = storage.pool_capacity(host.conn, POOL)
    assert space.total_bytes > 0
    assert 0 <= space.free_bytes <= space.total_bytes


def test_many_threads_share_a_pool(host: "Host") -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(3):
                storage.upload(host.conn, POOL, f"{number}.iso", b"x" * 70_000, "raw")
                storage.ensure_volume(host.conn, POOL, f"{number}-{turn}.qcow2", MIB)
                storage.delete_volume(host.conn, POOL, f"{number}.iso")
        except BaseException as error:  # noqa: BLE001  # the main thread reports it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(storage.volume_names(host.conn, POOL)) == 18


@on_the_lab
def test_a_failed_upload_leaves_no_volume(
    lab_uri: str, host: "Host", monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(*_args: object) -> None:
        raise libvirt.libvirtError("the stream broke")

    monkeypatch.setattr(storage, "send", broken)
    with pytest.raises(Exception, match="the stream broke"):
        storage.upload(host.conn, POOL, "seed.iso", b"x" * 100, "raw")
    monkeypatch.undo()
    assert storage.volume_names(host.conn, POOL) == []


@on_the_lab
def test_a_file_behind_libvirts_back_is_deleted_too(host: "Host") -> None:
    stray = host.pool_path / "stray.log"
    stray.write_text("made by somebody else")
    storage.delete_volume(host.conn, POOL, "stray.log")
    assert not stray.exists()
