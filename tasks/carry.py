"""A server's files to another host: frozen ones while it runs, what it writes to when it is off.

What a running guest writes to is only made room for: libvirt fills that at the switch. Each file
that is copied is proven at the new host; then it is told where there the one that it leans on is.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from innkeeper.domain.naming import POOL
from innkeeper.domain.steps import ArtifactKind
from innkeeper.host import checksum, layers
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import haul, migration, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import journal, offers
from innkeeper.services.attachments import DataDiskBlueprint
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks import files, ground
from tasks.clone import LEASE_SECONDS
from tasks.files import (
    DiskInUse,
    data_copies,
    data_files,
    data_volumes,
    require_arrived,
    require_image,
    root_file,
)
from tasks.ground import live
from tasks.merge import all_files
from tasks.shelf import Told, require_known
from tasks.step import step

SNAPSHOTS = "carry-snapshots"
DISK = "carry-disk"
DATA = "carry-data-disks"
PROVEN = "proven"
"""Noted in those steps: the BLAKE2b of each file that was copied and is whole at the new host."""

_COPYING = 0.9
"""Which part of a step's time the copying takes, about; the rest is computing checksums."""


def mirrored(b: Blueprint) -> list[DataDiskBlueprint]:
    """Return the data disks that libvirt fills: those that a running guest may write to."""
    return [disk for disk in b.data.attached if live(b) and not disk.read_only]


@contextmanager
def turn(b: Blueprint) -> Iterator[None]:
    """Bound how many disks are copied from and to a host at once; others wait."""
    limits = sorted(f"disk-copy-{side.host.name}" for side in (b, b.there))
    with get_client(sync_client=True) as client:
        for limit in limits:
            client.upsert_global_concurrency_limit_by_name(limit, settings().disk_copies)
    with concurrency(
        limits, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):  # a copy that has begun is not given up because Prefect is silent
        journal.heartbeat(b.claim)  # whoever took over while this waited may be on that disk by now
        yield


def _frozen(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [*all_files(b), *ground.copies(b)]


@step(SNAPSHOTS, makes=_frozen)
def carry_snapshots(b: Blueprint) -> str:
    """Copy the frozen files and memories of a server's snapshots, each proven; the guest goes on.

    Before anything is copied, or anybody shut down, the new host has to have room for all, and the
    CPU that the guest was given.
    """
    if b.committed:
        return "they are there"
    offers.require_told(b.host, b.cpu, b.memory)
    files.require_apart(b, SNAPSHOTS)
    proven = dict(b.step_data.get(PROVEN, {}))
    names = [name for _kind, name in all_files(b)]
    ground.begin(b)
    beneath = ground.missing(b)
    if b.host.simulated:
        return _simulate(b)
    require_known(b.there)
    data = data_volumes(b)
    here = files.there(b, [*names, *beneath, b.root_volume, *data])
    whole = proven.keys() & here
    memories = _memories(b)
    missing = [name for name in (*_upward(b), *memories, *beneath) if name not in whole]
    _require_room(b, {*missing, *({b.root_volume, *data} - here)})
    if missing:
        with turn(b):
            tell = _telling(b, SNAPSHOTS, missing)
            for name in missing:
                proven[name] = _carry(b, name, tell)
                if name not in memories:
                    _lean_on_what_is_there(b, name)
                journal.note(b.claim, SNAPSHOTS, **{PROVEN: proven})
    names += beneath
    return f"{len(names)} files, each with its BLAKE2b" if names else "it has none"


def _upward(b: Blueprint) -> list[str]:
    return [layer.volume for layer in b.layers.upward()]


def _memories(b: Blueprint) -> list[str]:
    return [name for kind, name in all_files(b) if kind is ArtifactKind.SNAPSHOT]


@carry_snapshots.undone_by
def erase_snapshots(b: Blueprint) -> str:
    """Delete what was put on the new host; the old one has it still."""
    copies = [name for _kind, name in ground.copies(b)]
    for name in (*copies, *reversed(_upward(b)), *_memories(b)):
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return f"{len(_frozen(b))} files deleted"


def _simulate(b: Blueprint) -> str:
    """Make files without content that lean on each other as those of the old host do."""
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    tree = b.layers
    for layer in tree.upward():
        backing = storage.volume_path(new, POOL, tree.file_of(layer.parent_id))
        size = storage.capacity(old, POOL, layer.volume)
        storage.ensure_volume(new, POOL, layer.volume, size, backing_path=backing, replace=True)
    ground.simulate(b)
    for name in _memories(b):
        storage.upload(new, POOL, name, b"simulated", "raw")
    return f"{len(all_files(b))} simulated files"


@step(DISK, makes=root_file)
def carry_disk(b: Blueprint) -> str:
    """Copy the disk of a guest that is off and prove it; for one that runs, make room for it."""
    if b.committed:
        return "it is there"
    new = connect(b.host.uri)
    if _taken(b):
        return "the guest is on it"  # what becomes of that, the switch decides
    if b.step_data.get(PROVEN) and b.root_volume in storage.volume_names(new, POOL):
        return "it is there"
    if b.host.simulated or live(b):
        return _make_room(b)
    with turn(b):
        _require_room(b, [b.root_volume])
        digest = _carry(b, b.root_volume, _telling(b, DISK, [b.root_volume]))
        _lean_on_what_is_there(b, b.root_volume)
        _require_image(b)
    journal.note(b.claim, DISK, **{PROVEN: digest})
    length = storage.length(new, POOL, b.root_volume)
    return f"{b.root_volume}, {length >> 20} MiB, BLAKE2b {digest[:16]}…"


def _taken(b: Blueprint) -> bool:
    """Tell whether the guest may be at the new host already, on what was put there."""
    there = migration.look(connect(b.host.uri), b.server_id).state
    return there not in {None, PowerState.OFF} or (
        migration.look(connect(b.there.host.uri), b.server_id).left
    )


def _make_room(b: Blueprint) -> str:
    """Make the empty layer that libvirt fills; on simulated hosts nothing else is copied."""
    if not b.host.simulated:
        sources = [b.root_volume, *b.ground, *([b.disk_image.volume] if b.ground else [])]
        sizes = files.allocated(b.there, sources)
        files.require_room(b, {b.root_volume: sum(sizes.values())})
        _require_image(b)
    return _empty_root(b)


def empty(b: Blueprint) -> None:
    """Make all that libvirt fills empty again, after a run that died while it was filled."""
    _empty_root(b)
    _empty_disks(b, mirrored(b))


def _empty_root(b: Blueprint) -> str:
    """Make an empty layer, of the old one's size: what a dead run put into one is not believed."""
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    below = storage.leans_on(old, POOL, b.root_volume)
    size = storage.capacity(old, POOL, b.root_volume)
    backing = storage.volume_path(new, POOL, ground.there(b, below.name)) if below else None
    journal.heartbeat(b.claim)  # the next run's it may be by now
    storage.delete_volume(new, POOL, b.root_volume)
    storage.ensure_volume(new, POOL, b.root_volume, size, backing_path=backing)
    return f"{b.root_volume}, {size >> 30} GiB, empty"


@carry_disk.undone_by
def erase_copy(b: Blueprint) -> str:
    """Delete what was put on the new host; the old one has it still."""
    storage.delete_volume(connect(b.host.uri), POOL, b.root_volume)
    return f"{b.root_volume} deleted"


@step(DATA, makes=data_copies)
def carry_data_disks(b: Blueprint) -> str:
    """Copy the data disks that nobody writes to now, each proven; for others make room."""
    if b.committed:
        return "they are there"
    if _taken(b):
        return "the guest is on them"
    if b.host.simulated:
        return _empty_disks(b, b.data.attached)
    proven, filled = dict(b.step_data.get(PROVEN, {})), mirrored(b)
    whole = proven.keys() & files.there(b, data_volumes(b))
    still = [name for name in data_volumes(b) if name not in {disk.volume for disk in filled}]
    missing = [name for name in still if name not in whole]
    _require_room(b, {*missing, *(disk.volume for disk in filled)})
    if missing:
        with turn(b):
            tell = _telling(b, DATA, missing)
            for name in missing:
                proven[name] = _carry(b, name, tell)
                journal.note(b.claim, DATA, **{PROVEN: proven})
    _empty_disks(b, filled)
    return f"{len(still)} copied, each with its BLAKE2b, {len(filled)} to be filled"


def _empty_disks(b: Blueprint, disks: Iterable[DataDiskBlueprint]) -> str:
    """Make empty data disks, as large as the old host's."""
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    made = []
    for disk in disks:
        raw = disk.format == "raw" and not b.host.simulated
        sized = storage.length if raw else storage.capacity  # a raw one may look like a qcow2
        size = sized(old, files.pool_of(b.there, disk.volume), disk.volume)
        journal.heartbeat(b.claim)  # the next run's it may be by now
        files.delete(b, disk.volume)
        storage.ensure_volume(new, disk.pool, disk.volume, size, fmt=disk.format)
        made.append(f"{disk.name} {size >> 30} GiB")
    return f"empty: {', '.join(made) or 'none'}"


@carry_data_disks.undone_by
def erase_data_disks(b: Blueprint) -> str:
    """Delete what was put on the new host; the old one has it still."""
    return files.erase_copies(b, SNAPSHOTS)


@step("remove-data-disks", removes=data_files)
def remove_data_disks(b: Blueprint) -> str:
    """Delete what a host has of data disks that are another's, or the shelf's, now."""
    if not b.committed:
        raise DiskInUse(f"{b.name} has not left {b.host.name}: its data disks stay.")
    for name in data_volumes(b):
        files.delete(b, name)
    return f"{len(data_volumes(b))} deleted"


def _telling(b: Blueprint, step_name: str, names: Collection[str]) -> Callable[[str, int], None]:
    """Return a way to tell how many bytes of one of these files have passed."""
    lengths = {name: files.length_of(b.there, ground.here(b, name)) for name in names}
    tell = Told(b, step_name).bytes("copying", sum(lengths.values()), _COPYING)
    passed = dict.fromkeys(names, 0)

    def told(name: str, count: int) -> None:
        passed[name] = count
        tell(sum(passed.values()))

    return told


def _carry(b: Blueprint, name: str, tell: Callable[[str, int], None]) -> str:
    """Copy a file and have the new host compute what it has, after that is on its disk.

    Return its BLAKE2b.

    Raises:
        DiskArrivedDamaged: it is not what was sent; it is sent again.
    """
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    source = haul.Place(old, files.pool_of(b.there, name), ground.here(b, name))
    target = haul.Place(new, files.pool_of(b, name), name)
    length, digest = haul.carry(source, target, tell=lambda passed: tell(name, passed))
    require_arrived(b, name, length, digest)
    return digest


def _lean_on_what_is_there(b: Blueprint, name: str) -> None:
    """Have a layer that has just been proven name what it leans on by the path at the new host.

    Never ask that of a raw disk: what seems to be a header there is the guest's.
    """
    new, channel = connect(b.host.uri), open_channel(b.host.channel)
    below = storage.leans_on(new, POOL, name)
    if below is None:
        return
    there = storage.volume_path(new, POOL, ground.there(b, below.name))
    if below == there:
        return
    path = storage.volume_path(new, POOL, name)
    journal.heartbeat(b.claim)  # the next run's it may be by now
    layers.repoint(channel, path, there)
    checksum.settle(channel, path, storage.length(new, POOL, name))


def _require_room(b: Blueprint, names: Collection[str]) -> None:
    """See that the new host's pool has space for these files.

    Raises:
        PoolFull: it has not.
    """
    sizes = files.allocated(b.there, [ground.here(b, name) for name in names])
    files.require_room(b, {name: sizes.get(ground.here(b, name), 0) for name in names})


def _require_image(b: Blueprint) -> None:
    """See that the new host's image, if the disk stands on it, is the image.

    Raises:
        ShelfFileDamaged: it is not.
    """
    old, base = connect(b.there.host.uri), b.layers.image
    standing = [name for name, below in b.layers.leanings() if below == base]
    if any(storage.leans_on(old, POOL, name) for name in standing):
        require_image(b, "move to another host")
