"""Onto the shelf: the guest rests, its disk is copied, compressed and proven, then it is let go."""

import time
from collections.abc import Callable
from pathlib import Path

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL
from innkeeper.errors import OperationCancelled, PermanentError
from innkeeper.host import checksum
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, haul, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.images import qemu, shelf
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal, shelves
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.shelves import Shelved
from innkeeper.settings import settings
from tasks.firmware import keep_nvram
from tasks.progress import INTERVAL_SECONDS, Progress
from tasks.step import step

TAG = "shelf"
_COPIED = 0.4
"""Which part of the step's time the copying takes, about; the rest is compressing."""


class DiskInUse(PermanentError):
    """The disk changed while, or after, it was copied."""


class DiskStacked(PermanentError):
    """The disk lies on something else than its image."""


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


@step("rest")
def rest_guest(b: Blueprint) -> str:
    """Stop the guest as the verb `stop` does, once it is known that the shelf has room."""
    if b.committed:
        return "done before"
    connection = connect(b.host.uri)
    if not b.host.simulated:
        _base(b)
        shelf.require_room(storage.allocated(connection, POOL, [b.root_volume])[b.root_volume])
    return f"stopped ({guest.stop(connection, b.server_id, *_patience(b))})"


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


@step("shelve-disk", tags=[TAG])
def shelve_disk(b: Blueprint) -> str:
    """Copy the disk off its host and put it, compressed, onto the shelf; the host keeps its own.

    Every attempt makes a file of its own; one that is whole is not made again.
    """
    if b.committed or _is_whole(b):
        return "it is on the shelf"
    name = shelves.intend(b.claim)
    with shelf.making(name) as place:
        kept = _simulate(b, name, place) if b.host.simulated else _shelve(b, name, place)
    shelves.keep(b.claim, kept)
    return f"{name}, {kept.size_bytes >> 20} MiB"


def _is_whole(b: Blueprint) -> bool:
    if b.shelf is None or b.shelf.sha256 is None:
        return False
    path = shelf.path_of(b.shelf.name)
    return path.exists() and path.stat().st_size == b.shelf.size_bytes


def _shelve(b: Blueprint, name: str, place: Path) -> Shelved:
    connection, told = connect(b.host.uri), Told(b, "shelve-disk")
    layer, base = place / "disk", _base(b)
    size = storage.allocated(connection, POOL, [b.root_volume])[b.root_volume]
    shelf.require_room(size)
    tell = told.bytes("copying off the host", size, _COPIED)
    length, digest = haul.bring(connection, POOL, b.root_volume, layer, tell=tell)
    beside = place / base if base else None
    if beside is not None:
        _fetch_base(b, beside, told)

    def compressing(fraction: float) -> None:
        detail = f"compressing {length >> 20} MiB: {fraction:.0%}"
        told.tell(_COPIED + (1 - _COPIED) * fraction, detail)

    made = shelf.compress(layer, beside, name, on_progress=compressing)
    return Shelved(*shelf.publish(made, name, tell=compressing), base, digest)


def _base(b: Blueprint) -> str | None:
    """Return the base volume that the disk lies on by its own header, if it lies on any.

    Raises:
        DiskStacked: it is not the image's.
    """
    below = storage.leans_on(connect(b.host.uri), POOL, b.root_volume)
    if below is None or below.name == b.disk_image.volume:
        return below.name if below else None
    raise DiskStacked(
        f"The disk {b.root_volume} lies on {below.name}, not on its image: flatten it first."
    )


def _fetch_base(b: Blueprint, beside: Path, told: Told) -> None:
    """Put the image beside the copied disk: it is in the image store, or comes from the host."""
    stored = Path(b.disk_image.path)
    if b.disk_image.path and stored.exists():
        beside.symlink_to(stored.absolute())
        return
    size = b.disk_image.virtual_size_bytes
    tell = told.bytes("copying the image off the host", size, _COPIED)
    haul.bring(connect(b.host.uri), POOL, beside.name, beside, tell=tell)


def _simulate(b: Blueprint, name: str, place: Path) -> Shelved:
    """Put an empty disk of the right size on the shelf: simulated hosts have no content."""
    made = place / name
    qemu.create_empty(made, b.disk_bytes)
    size, sha256 = shelf.publish(made, name, tell=lambda _fraction: None)
    return Shelved(size, sha256, b.disk_image.volume, None)


@shelve_disk.undone_by
def unshelve_again(b: Blueprint) -> str:
    """Take the file from the shelf: the disk is on its host as before."""
    return f"{shelves.clear(b.claim) or 'nothing'} removed from the shelf"


@step("adopt-shelf")
def adopt_shelf(b: Blueprint) -> str:
    """Let the file on the shelf be the server's disk: there is no way back from here.

    Only if the file is whole, and the disk on the host is still what was copied.
    """
    if b.committed:
        return "done before"
    if b.shelf is None or b.shelf.sha256 is None:
        raise ShelfFileDamaged(f"{b.name} has no whole file on the shelf: shelve it again.")
    shelf.require_whole(b.shelf.name, b.shelf.size_bytes)
    connection = connect(b.host.uri)
    state = guest.power_state(connection, b.server_id)
    if state is not PowerState.OFF:
        raise DiskInUse(f"{b.name} is {state} while it is shelved: leave it off, then try again.")
    if not b.host.simulated:
        path = storage.volume_path(connection, POOL, b.root_volume)
        size = storage.allocated(connection, POOL, [b.root_volume])[b.root_volume]
        if checksum.blake2b(open_channel(b.host.channel), path, size) != b.shelf.source_digest:
            raise DiskInUse(f"The disk of {b.name} is not what was copied: shelve it again.")
    keep_nvram(b)
    journal.commit(b.claim)
    return f"{b.shelf.name}, SHA-256 {b.shelf.sha256}"


@step("remove-shelf")
def remove_shelf(b: Blueprint) -> str:
    """Take a deleted server's file from the shelf."""
    return f"{shelves.clear(b.claim) or 'nothing'} removed from the shelf"
