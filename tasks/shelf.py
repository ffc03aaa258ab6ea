"""Onto the shelf: each file is copied, compressed and proven, then the host lets all go.

Frozen files go while the guest still runs, each after the one that it leans on; what the guest
writes to goes when it rests.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL, is_packed, short
from innkeeper.errors import OperationCancelled, PermanentError
from innkeeper.host import checksum
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, haul, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.images import qemu, shelf
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal, shelves
from innkeeper.services.blueprint import Blueprint, ShelfBlueprint
from innkeeper.services.shelves import Shelved
from innkeeper.settings import settings
from tasks.files import DiskInUse, allocated, data_volumes, length_of, path_of, pool_of
from tasks.firmware import keep_nvram
from tasks.merge import all_files
from tasks.progress import INTERVAL_SECONDS, Progress
from tasks.step import step

TAG = "shelf"
SNAPSHOTS = "shelve-snapshots"
DISK = "shelve-disk"
DATA = "shelve-data-disks"
_COPIED = 0.4
"""Which part of the step's time the copying takes, about; the rest is compressing."""


class DiskStacked(PermanentError):
    """A disk lies on something else than it should."""


class Told:
    """Tells how far a step is, in bytes; ends it when somebody asked for that."""

    def __init__(self, b: Blueprint, step_name: str) -> None:
        self.b = b
        self.progress = Progress(b.claim, step_name)
        self.told = 0.0

    def tell(self, fraction: float, detail: str) -> None:
        """Tell a fraction of the step, once a second at most.

        Raises:
            ClaimLost: the operation was taken over.
            OperationCancelled: somebody asked for that.
        """
        if time.monotonic() - self.told < INTERVAL_SECONDS:
            return
        self.told = time.monotonic()
        if journal.cancelled(self.b.claim):
            raise OperationCancelled(f"Cancelled on request: {detail}.")
        self.progress.tell(min(fraction, 1.0), detail)

    def bytes(self, what: str, total: int, share: float) -> Callable[[int], None]:
        """Return a way to tell how many bytes of a total have passed."""

        def tell(passed: int) -> None:
            done = passed / max(total, passed, 1)
            self.tell(done * share, f"{what}: {passed >> 20} of {total >> 20} MiB")

        return tell

    def part(self, begin: float, share: float) -> Callable[[float, str], None]:
        """Return a way to tell how far a part of the step is, which begins at that fraction."""

        def tell(fraction: float, detail: str) -> None:
            self.tell(begin + share * fraction, detail)

        return tell


@step(SNAPSHOTS, tags=[TAG])
def shelve_snapshots(b: Blueprint) -> str:
    """Put the frozen files and memories of snapshots onto the shelf, while the guest goes on.

    Before anything is copied, or anybody shut down, the shelf has to have room for all.
    """
    if b.committed:
        return "they are on the shelf"
    if not b.host.simulated:
        require_known(b)
        missing = [volume for volume in _all(b) if not _is_whole(b, b.shelf.get(volume))]
        shelf.require_room(sum(allocated(b, [*missing, *b.ground]).values()))
    return _put(b, SNAPSHOTS, frozen_files(b), frozen=True)


@shelve_snapshots.undone_by
def clear_snapshots(b: Blueprint) -> str:
    """Take them from the shelf again: the host has them as before."""
    return shelves.clear(b.claim, frozen_files(b))


def frozen_files(b: Blueprint) -> list[str]:
    """Return the files that nobody writes to: layers, each after what it leans on, and memories."""
    layers = [layer.volume for layer in b.layers.upward()]
    return [*layers, *(name for _kind, name in all_files(b) if name not in layers)]


def _all(b: Blueprint) -> list[str]:
    return [*frozen_files(b), b.root_volume, *data_volumes(b)]


def require_known(b: Blueprint) -> dict[str, str | None]:
    """Return what each file of the disk leans on, which has to be what the database says.

    Those on the image may lean on nothing; data disks have to, but raw ones, which nobody asks:
    what seems to be a header there is the guest's.

    Raises:
        DiskStacked: one lies on something else.
    """
    found: dict[str, str | None] = {}
    for name, expected in b.layers.leanings():
        below = storage.leans_on(connect(b.host.uri), POOL, name)
        found[name] = below.name if below else None
        if found[name] not in {expected, None if expected == b.layers.image else expected}:
            raise DiskStacked(
                f"The disk {name} lies on {found[name] or 'nothing'}, not on {expected}, "
                "as the database has it. If a snapshot has failed, delete it again (`innkeeper "
                "snapshot delete`); else report this."
            )
    return found


@step("rest")
def rest_guest(b: Blueprint) -> str:
    """Stop the guest as the verb `stop` does."""
    if b.committed:
        return "done before"
    ended = guest.stop(connect(b.host.uri), b.server_id, *_patience(b))
    return f"stopped ({ended})"


def _patience(b: Blueprint) -> tuple[float, float]:
    agent, acpi = (b.request.get(f"{way}_seconds") for way in ("agent", "acpi"))
    return (
        settings().agent_stop_seconds if agent is None else agent,
        settings().acpi_stop_seconds if acpi is None else acpi,
    )


@rest_guest.undone_by
def wake_guest(b: Blueprint) -> str:
    """Start the guest if it was running before."""
    if b.previous_status is not Status.ACTIVE:
        return "it was off before"
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


@step(DISK, tags=[TAG])
def shelve_disk(b: Blueprint) -> str:
    """Put the disk onto the shelf; the host keeps its own."""
    return "it is on the shelf" if b.committed else _put(b, DISK, [b.root_volume])


@shelve_disk.undone_by
def clear_disk(b: Blueprint) -> str:
    """Take it from the shelf again: the disk is on its host as before."""
    return shelves.clear(b.claim, [b.root_volume])


@step(DATA, tags=[TAG])
def shelve_data_disks(b: Blueprint) -> str:
    """Put the data disks onto the shelf; the host keeps its own."""
    return "they are on the shelf" if b.committed else _put(b, DATA, data_volumes(b))


@shelve_data_disks.undone_by
def clear_data_disks(b: Blueprint) -> str:
    """Take them from the shelf again: the host has them as before."""
    return shelves.clear(b.claim, data_volumes(b))


def _is_whole(b: Blueprint, kept: ShelfBlueprint | None) -> bool:
    """Tell whether an attempt of this operation has put a file there, all of it."""
    if kept is None or kept.sha256 is None:
        return False
    path = shelf.path_of(kept.name)
    ours = kept.name.startswith(f"{b.server_id}.{short(b.operation_id)}-")
    return ours and path.exists() and path.stat().st_size == kept.size_bytes


def _put(b: Blueprint, step_name: str, volumes: Collection[str], *, frozen: bool = False) -> str:
    """Put those volumes onto the shelf that are not there, in this order, each noted when whole.

    Every attempt makes files of its own; one that is whole is not made again.
    """
    whole = {volume: kept.name for volume, kept in b.shelf.items() if _is_whole(b, kept)}
    missing = [volume for volume in volumes if volume not in whole]
    sizes = allocated(b, missing)
    told, passed, total = Told(b, step_name), 0, max(sum(sizes.values()), 1)
    below = {} if b.host.simulated or not missing else require_known(b)
    for volume in missing:
        size = sizes.get(volume, 0)
        name = shelves.intend(b.claim, volume)
        with shelf.making(name) as place:
            tell = told.part(passed / total, size / total)
            making = _Making(b, volume, size, name, place, tell)
            kept = making.pretend() if b.host.simulated else making.make(below, whole, frozen)
        shelves.keep(b.claim, volume, kept)
        whole[volume] = name
        passed += size
    return f"{len(volumes)} files, {passed >> 20} MiB of them copied" if volumes else "it has none"


class _Making:
    """Making one file of the shelf, in a folder of its own."""

    def __init__(
        self,
        b: Blueprint,
        volume: str,
        size: int,
        name: str,
        place: Path,
        tell: Callable[[float, str], None],
    ) -> None:
        self.b = b
        self.volume = volume
        self.size = size
        self.name = name
        self.place = place
        self.tell = tell

    def make(self, below: dict[str, str | None], whole: dict[str, str], frozen: bool) -> Shelved:
        """Copy the volume off its host and compress it, on what is on the shelf already.

        Of a frozen one the host computes the checksum now, of others when it lets them go.
        """
        shelf.require_room(self.size)
        copy = self.place / "copy"
        tell = self._bytes("copying off the host", self.size)
        connection, pool = connect(self.b.host.uri), pool_of(self.b, self.volume)
        length, digest = haul.bring(connection, pool, self.volume, copy, tell=tell)
        if frozen:
            _require_same(self.b, self.volume, digest)
        if is_packed(self.volume):
            made = shelf.pack(copy, self.name, digest, on_progress=self._compressing(length))
            return self._publish(made, None, digest, length)
        chain = self._chain(below)
        beneath = [self._beside(lower, whole) for lower in chain]
        if self.b.ground and chain:
            shelf.stand_alone(copy, beneath, tick=self._taking_over)
            chain, beneath = chain[-1:], beneath[-1:]
        made = shelf.compress(copy, beneath, self.name, on_progress=self._compressing(length))
        return self._publish(made, chain[0] if chain else None, digest, None)

    def _publish(
        self, made: Path, base: str | None, digest: str | None, unpacked: int | None
    ) -> Shelved:
        size, sha256 = shelf.publish(
            made, self.name, tell=lambda _fraction: self.tell(1.0, "checking")
        )
        return Shelved(size, sha256, base, digest, unpacked)

    def _bytes(self, what: str, total: int) -> Callable[[int], None]:
        def tell(passed: int) -> None:
            done = min(passed / max(total, 1), 1.0)
            self.tell(_COPIED * done, f"{self.volume}: {what}, {passed >> 20} MiB")

        return tell

    def _compressing(self, length: int) -> Callable[[float], None]:
        def tell(fraction: float) -> None:
            detail = f"{self.volume}: compressing {length >> 20} MiB, {fraction:.0%}"
            self.tell(_COPIED + (1 - _COPIED) * fraction, detail)

        return tell

    def _chain(self, below: dict[str, str | None]) -> list[str]:
        """Return what the volume lies on, nearest first, as the hosts call it.

        Raises:
            DiskStacked: it is a data disk, and lies on something.
        """
        if self.volume not in below:
            pool = pool_of(self.b, self.volume)
            stray = storage.leans_on(connect(self.b.host.uri), pool, self.volume)
            if stray is not None:
                raise DiskStacked(f"The data disk {self.volume} lies on {stray.name}: report this.")
        chain: list[str] = []
        lower = below.get(self.volume)
        while lower is not None:
            chain.append(lower)
            lower = below.get(lower)
        if chain and chain[-1] in self.b.ground:
            chain = [*chain[:-1], *self.b.ground, self.b.disk_image.volume]
        return chain

    def _beside(self, lower: str, whole: dict[str, str]) -> Path:
        """Put what a layer lies on beside its copy: it is on the shelf, or it is the image."""
        beside = self.place / lower
        if lower in whole:
            beside.symlink_to(shelf.path_of(whole[lower]).absolute())
            return beside
        if lower in self.b.ground:
            return self._bring_ground(lower, beside)
        image = self.b.disk_image
        stored = Path(image.path)
        if image.path and stored.exists():
            beside.symlink_to(stored.absolute())
            return beside
        tell = self._bytes("copying the image off the host", image.virtual_size_bytes)
        haul.bring(connect(self.b.host.uri), POOL, lower, beside, tell=tell)
        return beside

    def _taking_over(self) -> None:
        self.tell(_COPIED, f"{self.volume}: taking over what is its source's")

    def _bring_ground(self, lower: str, beside: Path) -> Path:
        """Bring a frozen file of the source that a linked clone stands on; it goes with this."""
        connection = connect(self.b.host.uri)
        size = storage.length(connection, POOL, lower)
        shelf.require_room(size)
        tell = self._bytes("copying what is its source's off the host", size)
        _length, digest = haul.bring(connection, POOL, lower, beside, tell=tell)
        _require_same(self.b, lower, digest)
        return beside

    def pretend(self) -> Shelved:
        """Put a file without content on the shelf: simulated hosts have none."""
        made = self.place / self.name
        if is_packed(self.volume):
            made.write_bytes(b"simulated")
        else:
            qemu.create_empty(made, self.b.disk_bytes)
        base = next(iter(self.b.layers.beneath(self.volume)), None)
        base = self.b.disk_image.volume if base in self.b.ground else base
        return self._publish(made, base, None, None)


def _require_same(b: Blueprint, volume: str, digest: str | None) -> None:
    """See that the host, too, computes what was copied.

    Raises:
        DiskInUse: it does not.
    """
    channel, path = open_channel(b.host.channel), path_of(b, volume)
    if checksum.blake2b(channel, path, length_of(b, volume)) != digest:
        raise DiskInUse(f"{volume} of {b.name} is not what was copied: shelve it again.")


@step("adopt-shelf")
def adopt_shelf(b: Blueprint) -> str:
    """Let the files on the shelf be the server's: there is no way back from here.

    Only if all are whole, and what the guest can write to is still what was copied.
    """
    if b.committed:
        return "done before"
    for volume in _all(b):
        kept = b.shelf.get(volume)
        if kept is None or kept.sha256 is None:
            raise ShelfFileDamaged(f"{volume} of {b.name} is not on the shelf: shelve it again.")
        shelf.require_whole(kept.name, kept.size_bytes)
    state = guest.power_state(connect(b.host.uri), b.server_id)
    if state is not PowerState.OFF:
        raise DiskInUse(f"{b.name} is {state} while it is shelved: leave it off, then try again.")
    if not b.host.simulated:
        for volume in (b.root_volume, *data_volumes(b)):
            _require_same(b, volume, b.shelf[volume].source_digest)
    keep_nvram(b)
    shelves.let_host_go(b.claim)
    root = b.shelf[b.root_volume]
    return f"{len(b.shelf)} files; {root.name}, SHA-256 {root.sha256}"


@step("remove-shelf")
def remove_shelf(b: Blueprint) -> str:
    """Take a deleted server's files from the shelf."""
    return shelves.clear(b.claim)
