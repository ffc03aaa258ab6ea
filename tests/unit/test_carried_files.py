"""Copying a server's files, each proven; one by one, so that a killed run goes on with the next."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from innkeeper.domain.layers import Layer, Layers
from innkeeper.domain.lifecycle import Status
from innkeeper.hypervisor import haul, storage
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.services.attachments import DataDiskBlueprint, DataDisks
from tasks import carry, shelf
from tasks import files as server_files
from tasks.files import DiskArrivedDamaged
from tasks.shelf import DiskStacked

FIRST, SECOND = UUID(int=1), UUID(int=2)


class Files:
    """Two hosts' files, as the steps ask for them: what is there, and what it leans on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lean = {"a": "image", "b": "a", "top": "b", "m.mem": None}
        self.there: list[str] = []
        self.carried: list[str] = []
        self.made: list[tuple[str, int, str]] = []
        self.repointed: list[tuple[str, Path]] = []
        self.notes: dict[str, Any] = {}
        self.free = 100
        self.arrives = "digest"
        patch = monkeypatch.setattr
        patch(carry, "connect", lambda uri: uri)
        patch(shelf, "connect", lambda uri: uri)
        patch(server_files, "connect", lambda uri: uri)
        patch(carry, "open_channel", lambda uri: uri)
        patch(server_files, "open_channel", lambda uri: uri)
        patch(carry, "turn", lambda _b: nullcontext())
        patch(carry, "_telling", lambda *_: lambda *_: None)
        patch(storage, "volume_names", lambda *_: list(self.there))
        patch(storage, "leans_on", self.leans_on)
        patch(storage, "volume_path", lambda uri, _pool, name: _path(uri, name))
        patch(storage, "allocated", lambda _uri, _pool, names: dict.fromkeys(names, 10))
        patch(storage, "pool_capacity", lambda *_: SimpleNamespace(free_bytes=self.free))
        patch(storage, "length", lambda *_: 3)
        patch(storage, "capacity", lambda *_: 5)
        patch(storage, "delete_volume", lambda *_: None)
        patch(storage, "ensure_volume", self.ensure)
        patch(carry, "_taken", lambda _b: False)
        patch(haul, "carry", self.carry)
        patch(carry.checksum, "settle", lambda *_: None)
        patch(carry.checksum, "blake2b", lambda *_: self.arrives)
        patch(carry.layers, "repoint", lambda _c, name, onto: self.repoint(name, onto))
        patch(carry.journal, "heartbeat", lambda _claim: None)
        patch(carry.journal, "note", lambda _claim, _step, **data: self.notes.update(data))

    def leans_on(self, uri: str, _pool: str, name: str) -> Path | None:
        """Files come with the old host's paths in their headers."""
        below = self.lean[name]
        onto = dict(self.repointed).get(name) if uri == "new" else None
        return onto or (_path("old", below) if below else None)

    def carry(self, _old: haul.Place, new: haul.Place, **_: Any) -> tuple[int, str]:
        self.carried.append(new.name)
        return 10, "digest"

    def ensure(self, _uri: str, _pool: str, name: str, size: int, *, fmt: str) -> None:
        self.made.append((name, size, fmt))

    def repoint(self, path: Path, onto: Path) -> None:
        self.repointed.append((path.name, onto))


def _path(uri: str, name: str) -> Path:
    return Path("/") / uri / name


def disk(name: str, **fields: Any) -> DataDiskBlueprint:
    usual = {"id": uuid4(), "name": name, "phase": "attached", "volume": name, "target": "vdb"}
    usual |= {"size_gib": 1, "format": "qcow2", "cache": "none", "discard": True}
    usual |= {"read_only": False, "iops": None, "throughput_mib": None}
    return DataDiskBlueprint(**usual | {"delete_on_server_delete": True} | fields)


def blueprint(*data: DataDiskBlueprint, live: bool = False, **notes: Any) -> Any:
    frozen = (Layer(SECOND, FIRST, "b"), Layer(FIRST, None, "a"))
    sides = {
        name: SimpleNamespace(uri=name, name=name, channel=name, simulated=False)
        for name in ("old", "new")
    }
    layers = Layers("image", frozen, "top", SECOND)
    return SimpleNamespace(
        name="web",
        cpu={},
        memory={},
        host=sides["new"],
        there=SimpleNamespace(host=sides["old"], layers=layers, data=DataDisks(data)),
        committed=False,
        claim=None,
        root_volume="top",
        disk_image=SimpleNamespace(volume="image"),
        ground=(),
        layers=layers,
        snapshots=(
            SimpleNamespace(volume="a", memory_volume="m.mem"),
            SimpleNamespace(volume="b", memory_volume=None),
        ),
        data=DataDisks(data),
        request={"live": live},
        previous_status=Status.ACTIVE,
        step_data=notes,
    )


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


def test_frozen_files_go_lowest_first_and_lean_on_what_is_there(files: Files) -> None:
    carry.carry_snapshots.effect(blueprint())
    assert files.carried == ["a", "b", "m.mem"]
    assert files.repointed == [("a", Path("/new/image")), ("b", Path("/new/a"))]
    assert files.notes == {"proven": dict.fromkeys(files.carried, "digest")}


def test_where_the_paths_are_the_same_no_file_is_touched(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "volume_path", lambda _uri, _pool, name: _path("old", name))
    carry.carry_snapshots.effect(blueprint())
    assert (files.carried, files.repointed) == (["a", "b", "m.mem"], [])


def test_the_next_run_copies_what_is_not_proven_or_not_there(files: Files) -> None:
    files.there = ["a", "b"]
    carry.carry_snapshots.effect(blueprint(proven={"a": "digest", "m.mem": "digest"}))
    assert files.carried == ["b", "m.mem"]


def test_what_arrives_damaged_is_not_proven(files: Files) -> None:
    files.arrives = "another"
    with pytest.raises(DiskArrivedDamaged, match="/new/a"):
        carry.carry_snapshots.effect(blueprint())
    assert (files.repointed, files.notes) == ([], {})


@pytest.mark.parametrize(("name", "below"), [("b", "image"), ("top", "a"), ("a", "x"), ("b", None)])
def test_a_file_that_leans_on_another_than_the_database_has_is_not_carried(
    files: Files, name: str, below: str | None
) -> None:
    files.lean[name] = below
    with pytest.raises(DiskStacked, match=f"The disk {name} lies on {below or 'nothing'}, not on"):
        carry.carry_snapshots.effect(blueprint())
    assert files.carried == []


def test_without_room_for_all_files_none_is_carried(files: Files) -> None:
    files.free = 39  # the disk that is written to has to fit, too
    with pytest.raises(PoolFull, match="free space there, or choose another host"):
        carry.carry_snapshots.effect(blueprint())
    assert files.carried == []
    files.there, files.free = ["a"], 30
    carry.carry_snapshots.effect(blueprint(proven={"a": "digest"}))
    assert files.carried == ["b", "m.mem"]


def test_data_disks_of_a_guest_that_is_off_are_copied_as_they_are(files: Files) -> None:
    """Whatever a raw one seems to lean on: that is the guest's doing."""
    files.lean |= {"raw": "secret"}
    carry.carry_data_disks.effect(blueprint(disk("data"), disk("raw", format="raw")))
    assert (files.carried, files.repointed, files.made) == (["data", "raw"], [], [])
    assert files.notes == {"proven": {"data": "digest", "raw": "digest"}}


def test_a_running_guest_s_disks_are_filled_by_libvirt_but_those_that_it_only_reads(
    files: Files,
) -> None:
    there = disk("data"), disk("raw", format="raw"), disk("fixed", read_only=True)
    b = blueprint(*there, live=True)
    carry.carry_data_disks.effect(b)
    assert files.carried == ["fixed"]
    assert files.made == [("data", 5, "qcow2"), ("raw", 3, "raw")]
    assert [one.name for one in carry.mirrored(b)] == ["data", "raw"]
    files.there, files.carried = ["fixed", "data", "raw"], []
    carry.carry_data_disks.effect(blueprint(*there, live=True, proven={"fixed": "digest"}))
    assert files.carried == []


def test_what_goes_along_is_asked_for_before_anything_is_copied(files: Files) -> None:
    files.free = 59
    with pytest.raises(PoolFull):
        carry.carry_snapshots.effect(blueprint(disk("data"), disk("raw")))
    files.free = 60
    carry.carry_snapshots.effect(blueprint(disk("data"), disk("raw")))
