"""Real files onto the shelf and back into another pool, without a libvirt between."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from disk_images import qemu_img

from innkeeper.domain.layers import Layer, Layers
from innkeeper.domain.naming import image_volume, is_packed
from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import guest, haul, storage
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.hypervisor.power import PowerState
from innkeeper.images import shelf
from innkeeper.images.failure import ShelfFileDamaged, ShelfFull
from innkeeper.services.attachments import DataDisks
from innkeeper.services.blueprint import ShelfBlueprint
from innkeeper.services.shelves import Shelved
from tasks import files as server_files
from tasks import shelf as onto
from tasks import unshelve as back
from tasks.files import DiskArrivedDamaged, DiskInUse
from tasks.shelf import DiskStacked
from tasks.step import Step
from tests.unit.test_carried_files import disk

SERVER = UUID(int=7)
LOW, HIGH, BRANCH = UUID(int=1), UUID(int=2), UUID(int=3)
IMAGE = image_volume("5f" * 32)
LAYERS = Layers(
    IMAGE,
    (
        Layer(HIGH, LOW, "high.qcow2"),
        Layer(BRANCH, LOW, "branch.qcow2"),
        Layer(LOW, None, "low.qcow2"),
    ),
    "top.qcow2",
    HIGH,
)
FROZEN = ["low.qcow2", "high.qcow2", "branch.qcow2", "snap.mem"]
MIB = 1 << 20


def write(path: Path, *commands: str) -> None:
    argv = ["qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command))]
    subprocess.run([*argv, str(path)], check=True, capture_output=True)


class World:
    """A server's files in one pool, the shelf, and another pool."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pools = {name: home / name for name in ("old", "new")}
        self.rows: dict[str, ShelfBlueprint] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self.committed: list[str] = []
        self.brought: list[str] = []
        self.sent: list[str] = []
        self.host_reads: dict[str, str] = {}
        self.free = 1 << 40
        self.image = home / "image"
        for pool in self.pools.values():
            pool.mkdir()
        self._fill(self.pools["old"])
        shutil.copy(self.image, self.pools["new"] / IMAGE)
        patch = monkeypatch.setattr
        for module in (onto, back, server_files):
            patch(module, "connect", lambda uri: uri)
        for module in (onto, server_files):
            patch(module, "open_channel", lambda uri: uri)
        for module in (onto, back):
            patch(module.Told, "tell", lambda *_: None)
        patch(
            storage,
            "volume_names",
            lambda uri, _pool: [path.name for path in self.pools[uri].iterdir()],
        )
        patch(storage, "volume_path", lambda uri, _pool, name: self.pools[uri] / name)
        patch(storage, "length", lambda uri, _pool, name: (self.pools[uri] / name).stat().st_size)
        patch(storage, "allocated", self.allocated)
        patch(storage, "leans_on", self.leans_on)
        patch(storage, "pool_capacity", lambda *_: SimpleNamespace(free_bytes=self.free))
        patch(haul, "bring", self.bring)
        patch(haul, "send", self.send)
        patch(haul, "pour", self.pour)
        patch(guest, "destroy", lambda *_: None)
        patch(guest, "undefine", lambda *_: None)
        patch(guest, "power_state", lambda *_: PowerState.OFF)
        patch(onto.checksum, "settle", lambda *_: None)
        patch(onto.checksum, "blake2b", lambda _c, path, _n: self.sum("blake2b", path))
        patch(onto.checksum, "sha256", lambda _c, path, _n: self.sum("sha256", path))
        patch(onto.shelves, "intend", self.intend)
        patch(onto.shelves, "keep", self.keep)
        patch(onto.shelves, "let_host_go", lambda _claim: self.committed.append("host"))
        patch(back.journal, "note", lambda _c, name, **data: self.notes.update({name: data}))

    def _fill(self, pool: Path) -> None:
        qemu_img("create", "-f", "qcow2", self.image, "8M")
        write(self.image, "write -P 7 0 6M")
        shutil.copy(self.image, pool / IMAGE)
        for number, (name, below) in enumerate(LAYERS.leanings()):
            qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", pool / below, pool / name, "8M")
            write(
                pool / name, f"write -P {number + 20} {number}M 2M", f"write -z {number + 3}M 64k"
            )
        qemu_img("create", "-f", "qcow2", pool / "data.qcow2", "8M")
        write(pool / "data.qcow2", "write -P 99 3M 1M")
        (pool / "snap.mem").write_bytes(b"LibvirtQemudSave" + os.urandom(MIB) + b"odd")
        # What a guest has put onto its raw disk: a header that names a file of whoever opens it.
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", pool / "data.raw")
        with (pool / "data.raw").open("r+b") as file:
            file.seek(MIB)
            file.write(os.urandom(MIB))
            file.truncate(8 * MIB)

    def allocated(self, uri: str, _pool: str, names: list[str]) -> dict[str, int]:
        found = ((name, self.pools[uri] / name) for name in names)
        return {name: path.stat().st_blocks * 512 for name, path in found if path.exists()}

    def leans_on(self, uri: str, _pool: str, name: str) -> Path | None:
        assert not is_packed(name), "nobody asks that"
        argv = ["qemu-img", "info", "--output=json", str(self.pools[uri] / name)]
        said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        below = [line for line in said.splitlines() if '"full-backing-filename"' in line]
        return Path(below[0].split('"')[3]) if below else None

    def bring(self, uri: str, _pool: str, name: str, target: Path, **_: Any) -> tuple[int, str]:
        self.brought.append(name)
        shutil.copy(self.pools[uri] / name, target)
        return target.stat().st_size, hashlib.blake2b(target.read_bytes()).hexdigest()

    def send(self, uri: str, _pool: str, name: str, source: Path, **_: Any) -> str:
        self.sent.append(name)
        shutil.copy(source, self.pools[uri] / name)
        return hashlib.sha256(source.read_bytes()).hexdigest()

    def pour(self, uri: str, _pool: str, name: str, content: Any, length: int, **_: Any) -> str:
        self.sent.append(name)
        found = content.read()
        (self.pools[uri] / name).write_bytes(found[:length])
        return hashlib.blake2b(found).hexdigest()

    def sum(self, kind: str, path: Path) -> str:
        return self.host_reads.get(path.name) or hashlib.new(kind, path.read_bytes()).hexdigest()

    def intend(self, _claim: Any, volume: str) -> str:
        name = f"{SERVER}.{'0' * 8}-1.{volume}"
        self.rows[volume] = ShelfBlueprint(name, 0, None, None, None, None)
        return name

    def keep(self, _claim: Any, volume: str, file: Shelved) -> None:
        self.rows[volume] = ShelfBlueprint(self.rows[volume].name, **file._asdict())

    def blueprint(self, host: str, **notes: Any) -> Any:
        return SimpleNamespace(
            name="web",
            server_id=SERVER,
            operation_id=UUID(int=0),
            claim=None,
            committed=False,
            cpu={},
            memory={},
            host=SimpleNamespace(uri=host, name=host, channel=host, simulated=False),
            root_volume="top.qcow2",
            layers=LAYERS,
            ground=(),
            disk_image=SimpleNamespace(
                name="debian",
                volume=IMAGE,
                path=str(self.image),
                sha256=hashlib.sha256(self.image.read_bytes()).hexdigest(),
                virtual_size_bytes=8 * MIB,
                firmware="bios",
            ),
            snapshots=[
                SimpleNamespace(volume="high.qcow2", memory_volume="snap.mem"),
                SimpleNamespace(volume="low.qcow2", memory_volume=None),
                SimpleNamespace(volume="branch.qcow2", memory_volume=None),
            ],
            data=DataDisks((disk("data.qcow2"), disk("data.raw", read_only=True, format="raw"))),
            shelf=dict(self.rows),
            step_data=notes,
        )

    def shelve(self, *steps: Step) -> None:
        usual = (onto.shelve_snapshots, onto.shelve_disk, onto.shelve_data_disks, onto.adopt_shelf)
        for step in steps or usual:
            step.effect(self.blueprint("old"))

    def unshelve(self, *steps: Step) -> None:
        usual = (back.unshelve_snapshots, back.unshelve_disk, back.unshelve_data_disks)
        for step in steps or usual:
            step.effect(self.blueprint("new", **self.notes.get(step.name, {})))

    def content(self, pool: str, name: str) -> bytes:
        """Return what is in a file as a guest sees it."""
        path = self.pools[pool] / name
        if is_packed(name):
            return path.read_bytes()
        raw = path.with_suffix(".flat")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
        found = raw.read_bytes()
        raw.unlink()
        return found


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(home, monkeypatch)


def test_every_file_comes_back_as_a_guest_saw_it(world: World) -> None:
    names = [*FROZEN, "top.qcow2", "data.qcow2", "data.raw"]
    before = {name: world.content("old", name) for name in names}
    world.shelve()
    assert world.brought == names, "what is leaned on first"
    assert world.committed == ["host"]
    assert shelf.sizes() == {row.name: row.size_bytes for row in world.rows.values()}
    shutil.rmtree(world.pools["old"])
    world.unshelve()
    assert world.sent == names
    assert {name: world.content("new", name) for name in names} == before
    assert {row.base for row in world.rows.values()} == {IMAGE, "low.qcow2", "high.qcow2", None}


def test_a_linked_clone_comes_back_on_its_image_and_its_source_s_files_are_as_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, pool = world.blueprint, world.pools["old"]
    clone = {
        "layers": Layers("high.qcow2", (), "top.qcow2", None),
        "ground": ("high.qcow2", "low.qcow2"),
        "snapshots": [],
        "data": DataDisks(()),
    }
    monkeypatch.setattr(
        world,
        "blueprint",
        lambda host, **notes: SimpleNamespace(**vars(plain(host, **notes)) | clone),
    )
    before = world.content("old", "top.qcow2")
    files = {name: (pool / name).read_bytes() for name in (IMAGE, "low.qcow2", "high.qcow2")}
    world.shelve()
    assert {name: (pool / name).read_bytes() for name in files} == files
    assert {volume: row.base for volume, row in world.rows.items()} == {"top.qcow2": IMAGE}
    shutil.rmtree(pool)
    world.unshelve()
    assert world.content("new", "top.qcow2") == before


def test_the_next_run_goes_on_with_the_file_that_is_not_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = world.keep

    def dying(claim: Any, volume: str, file: Shelved) -> None:
        if volume == "high.qcow2":
            raise KeyboardInterrupt
        keep(claim, volume, file)

    monkeypatch.setattr(onto.shelves, "keep", dying)
    with pytest.raises(KeyboardInterrupt):
        world.shelve()
    monkeypatch.setattr(onto.shelves, "keep", keep)
    world.shelve()
    assert world.brought[:3] == ["low.qcow2", "high.qcow2", "high.qcow2"]
    assert world.brought.count("low.qcow2") == 1
    world.unshelve(back.unshelve_snapshots)
    (world.pools["new"] / "snap.mem").unlink()
    world.sent.clear()
    world.unshelve(back.unshelve_snapshots)
    assert world.sent == ["snap.mem"]


def test_a_file_that_another_operation_left_is_not_believed(world: World) -> None:
    world.shelve(onto.shelve_snapshots)
    low = world.rows["low.qcow2"]
    foreign = low.name.replace("0" * 8, "1" * 8)
    shelf.path_of(low.name).rename(shelf.path_of(foreign))
    kept = {part: getattr(low, part) for part in low.__dataclass_fields__} | {"name": foreign}
    world.rows["low.qcow2"] = ShelfBlueprint(**kept)
    world.brought.clear()
    world.shelve(onto.shelve_snapshots)
    assert world.brought == ["low.qcow2"]


def test_a_frozen_file_that_the_host_reads_otherwise_is_not_kept(world: World) -> None:
    world.host_reads["high.qcow2"] = "another"
    with pytest.raises(DiskInUse, match=r"high\.qcow2 of web is not what was copied"):
        world.shelve()
    assert world.rows["high.qcow2"].sha256 is None
    assert set(shelf.sizes()) == {world.rows["low.qcow2"].name}


@pytest.mark.parametrize("name", ["top.qcow2", "data.qcow2", "data.raw"])
def test_what_was_written_to_after_it_was_copied_is_not_let_go(world: World, name: str) -> None:
    world.shelve(onto.shelve_snapshots, onto.shelve_disk, onto.shelve_data_disks)
    with (world.pools["old"] / name).open("ab") as file:
        file.write(b"late")
    with pytest.raises(DiskInUse, match=name):
        world.shelve(onto.adopt_shelf)
    assert world.committed == []


def test_a_tree_that_the_database_knows_otherwise_is_left_alone(world: World) -> None:
    pool = world.pools["old"]
    argv = ["-u", "-f", "qcow2", "-F", "qcow2", "-b", pool / "branch.qcow2", pool / "high.qcow2"]
    qemu_img("rebase", *argv)
    with pytest.raises(DiskStacked, match=r"high\.qcow2 lies on branch\.qcow2, not on low\.qcow2"):
        world.shelve()
    assert (world.brought, shelf.sizes()) == ([], {})


def test_a_data_disk_that_lies_on_something_is_left_alone(world: World) -> None:
    pool = world.pools["old"]
    argv = ["-u", "-f", "qcow2", "-F", "qcow2", "-b", pool / IMAGE, pool / "data.qcow2"]
    qemu_img("rebase", *argv)
    with pytest.raises(DiskStacked, match=r"data disk data\.qcow2 lies on image-"):
        world.shelve()


def test_room_for_all_is_asked_for_before_anything_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = sum(
        world.allocated("old", "", [*FROZEN, "top.qcow2", "data.qcow2", "data.raw"]).values()
    )
    for free, fits in ((total, True), (total - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, left=free: SimpleNamespace(free=left))
        world.brought.clear()
        if fits:
            onto.shelve_snapshots.effect(world.blueprint("old"))
            world.rows.clear()
            continue
        with pytest.raises(ShelfFull, match="INNKEEPER_SHELF"):
            onto.shelve_snapshots.effect(world.blueprint("old"))
        assert world.brought == []


def test_a_pool_without_room_gets_nothing(world: World) -> None:
    world.shelve()
    world.free = sum(row.size_bytes for row in world.rows.values()) - 1
    with pytest.raises(PoolFull, match="choose another host"):
        world.unshelve()
    assert world.sent == []


@pytest.mark.parametrize("name", ["low.qcow2", "snap.mem", "data.raw"])
def test_what_arrives_damaged_is_not_proven(world: World, name: str) -> None:
    world.shelve()
    world.host_reads[name] = "another"
    with pytest.raises(DiskArrivedDamaged, match=name):
        world.unshelve()
    assert name not in str(world.notes)


@pytest.mark.parametrize("name", ["low.qcow2", "snap.mem", "data.raw"])
def test_what_was_damaged_on_the_shelf_is_told(world: World, name: str) -> None:
    world.shelve()
    path = shelf.path_of(world.rows[name].name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShelfFileDamaged, match=r"bring it back from a backup"):
        world.unshelve()


def test_an_image_that_is_another_there_is_told(world: World) -> None:
    world.shelve()
    (world.pools["new"] / IMAGE).write_bytes(b"something else")
    with pytest.raises(InnkeeperError, match="is not debian: unshelve to another host"):
        world.unshelve()
