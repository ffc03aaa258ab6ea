"""To another host: the disk first, then the guest; until that runs there, all can be undone.

Where the guest is, the hosts are asked, not the journal: a run may have died in the middle of
libvirt's call. Before the call a note says that the guest may be elsewhere from now on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL, seed_of, short
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import ClaimLost, InnkeeperError, PermanentError
from innkeeper.host import checksum
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, haul, migration, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.hypervisor.migration import Side, Way
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.domain import domain_xml
from innkeeper.images.failure import ShelfFileDamaged
from innkeeper.services import journal, migrating
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.clone import LEASE_SECONDS
from tasks.guest import spec_of
from tasks.guest_login import GuestUnreachable, expect_answer
from tasks.resize import require_window
from tasks.shelf import DiskInUse, DiskStacked, Told
from tasks.step import step
from tasks.suspension import correct_clock
from tasks.unshelve import DiskArrivedDamaged

STAND_BY = "stand-by"
ANSWERED = "answered"
"""Noted in that step: whether the guest was well enough to answer before it was moved live."""

SWITCH = "switch-over"
DISK = "carry-disk"


class GuestGone(PermanentError):
    """The guest runs on neither host."""


def _runs(b: Blueprint) -> bool:
    return b.previous_status is Status.ACTIVE


def _live(b: Blueprint) -> bool:
    return bool(b.request["live"])


def _root(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, b.root_volume)]


@contextmanager
def _turn(b: Blueprint) -> Iterator[None]:
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


def _answers(b: Blueprint) -> bool:
    return not b.host.simulated and guest.agent_ping(connect(b.host.uri), b.server_id)


@step(STAND_BY)
def stand_by(b: Blueprint) -> str:
    """Shut a running guest down that cannot move while it runs, once its disk is found fit."""
    if b.committed:
        return "done before"
    if not b.host.simulated:
        _require_own_disk(b)
    if not _runs(b):
        return "it is off"
    if _live(b):
        if ANSWERED not in b.step_data:
            journal.note(b.claim, STAND_BY, **{ANSWERED: _answers(b)})
        return "it runs on"
    if "stopping" not in b.step_data:
        require_window(b)
        journal.note(b.claim, STAND_BY, stopping=True)
    patience = settings().agent_stop_seconds, settings().acpi_stop_seconds
    return f"stopped ({guest.stop(connect(b.host.uri), b.server_id, *patience)})"


@stand_by.undone_by
def go_on_as_before(b: Blueprint) -> str:
    """Start the guest where it was, if it was shut down for this."""
    if _live(b) or not _runs(b) or "stopping" not in b.step_data:
        return "it was not touched"
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


def _require_own_disk(b: Blueprint) -> None:
    """See that the disk lies on its image, which the other host has, too.

    Raises:
        DiskStacked: it lies on something else.
    """
    below = storage.leans_on(connect(b.host.uri), POOL, b.root_volume)
    if below is not None and below.name != b.disk_image.volume:
        raise DiskStacked(
            f"The disk {b.root_volume} lies on {below.name}, not on its image: flatten it first."
        )


@step(DISK, makes=_root)
def carry_disk(b: Blueprint) -> str:
    """Copy the disk of a guest that is off and prove it; for one that runs, make room for it."""
    if b.committed:
        return "it is there"
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    there = migration.look(new, b.server_id).state not in {None, PowerState.OFF}
    if there or migration.look(old, b.server_id).left:
        return "the guest is on it"  # what becomes of that, the switch decides
    if b.step_data.get("proven") and b.root_volume in storage.volume_names(new, POOL):
        return "it is there"
    if b.host.simulated or _live(b):
        return _make_room(b)
    with _turn(b):
        _require_room(b)
        tell = Told(b, DISK).bytes("copying", storage.length(old, POOL, b.root_volume), 0.9)
        length, digest = haul.carry(old, new, POOL, b.root_volume, tell=tell)
        _prove(b, length, digest)
    journal.note(b.claim, DISK, proven=digest)
    return f"{b.root_volume}, {length >> 20} MiB, BLAKE2b {digest[:16]}…"


def _make_room(b: Blueprint) -> str:
    """Make the empty layer that libvirt fills; on simulated hosts nothing else is copied."""
    if not b.host.simulated:
        _require_room(b)
        _require_image(b)
    return _empty(b)


def _empty(b: Blueprint) -> str:
    """Make an empty layer, of the old one's size: what a dead run put into one is not believed."""
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    below = storage.leans_on(old, POOL, b.root_volume)
    size = storage.capacity(old, POOL, b.root_volume)
    backing = storage.volume_path(new, POOL, below.name) if below else None
    journal.heartbeat(b.claim)  # the next run's it may be by now
    storage.delete_volume(new, POOL, b.root_volume)
    storage.ensure_volume(new, POOL, b.root_volume, size, backing_path=backing)
    return f"{b.root_volume}, {size >> 30} GiB, empty"


def _require_room(b: Blueprint) -> None:
    needed = storage.allocated(connect(b.there.host.uri), POOL, [b.root_volume])[b.root_volume]
    free = storage.pool_capacity(connect(b.host.uri), POOL).free_bytes
    if needed > free:
        raise PoolFull(
            f"The disk of {b.name} takes {needed >> 20} MiB, the pool of {b.host.name} has "
            f"{free >> 20} MiB left: free space there, or choose another host."
        )


def _prove(b: Blueprint, length: int, digest: str) -> None:
    """Have the new host compute what it has, after that is on its disk.

    Raises:
        DiskArrivedDamaged: it is not what was sent; it is sent again.
    """
    channel = open_channel(b.host.channel)
    path = storage.volume_path(connect(b.host.uri), POOL, b.root_volume)
    checksum.settle(channel, path, length)
    if checksum.blake2b(channel, path, length) != digest:
        raise DiskArrivedDamaged(f"{path} on {b.host.name} is not what was sent: sending it again.")
    _require_image(b)


def _require_image(b: Blueprint) -> None:
    below = storage.leans_on(connect(b.there.host.uri), POOL, b.root_volume)
    if below is None:
        return
    path = storage.volume_path(connect(b.host.uri), POOL, below.name)
    length = storage.length(connect(b.host.uri), POOL, below.name)
    if checksum.sha256(open_channel(b.host.channel), path, length) != b.disk_image.sha256:
        raise ShelfFileDamaged(
            f"The image {path} on {b.host.name} is not {b.disk_image.name}: move to another host, "
            "and have that one looked after."
        )


@carry_disk.undone_by
def erase_copy(b: Blueprint) -> str:
    """Delete what was put on the new host; the old one has it still."""
    storage.delete_volume(connect(b.host.uri), POOL, b.root_volume)
    return f"{b.root_volume} deleted"


@step(SWITCH)
def switch_over(b: Blueprint) -> str:
    """Have the guest go on at the new host; from then on there is no way back.

    A server that is off only changes its host in the database.
    """
    if b.committed:
        return "done before"
    if not _runs(b):
        _require_untouched(b)
        said = "off"
    else:
        said = _move(b) if _live(b) else _start_there(b)
    migrating.switch_host(b.claim)
    return f"on {b.there.host.name}: {said}"


def _require_untouched(b: Blueprint) -> None:
    """See that nobody has started the guest, or written to its disk, since that was copied."""
    state = guest.power_state(connect(b.host.uri), b.server_id)
    if state not in {PowerState.OFF, PowerState.CRASHED}:
        raise DiskInUse(f"{b.name} is {state} while it is moved: leave it off, then try again.")
    if b.host.simulated:
        return
    copied = journal.noted(b.claim, DISK).get("proven")
    path = storage.volume_path(connect(b.host.uri), POOL, b.root_volume)
    length = storage.length(connect(b.host.uri), POOL, b.root_volume)
    if checksum.blake2b(open_channel(b.host.channel), path, length) != copied:
        raise DiskInUse(f"The disk of {b.name} is not what was copied: move it again.")


def _start_there(b: Blueprint) -> str:
    """Start the guest on its copied disk; noted before, because it writes from then on."""
    if not b.step_data.get("leaving"):
        _require_untouched(b)
        journal.note(b.claim, SWITCH, leaving=True)
    guest.start(connect(b.there.host.uri), b.server_id)
    return "started"


def _move(b: Blueprint) -> str:
    """Move the guest while it runs, or go on with what another run began."""
    told = Told(b, SWITCH)
    if _arrived(b, told):
        _way(b).forget()  # what the run that brought it there left
        return "arrived before"
    if b.step_data.get("leaving"):
        _empty(b.there)
    journal.note(b.claim, SWITCH, leaving=True)
    old, new = connect(b.host.uri), connect(b.there.host.uri)
    here, there = b.root_volume, b.there
    names = (here, seed_of(here))
    paths = {
        str(storage.volume_path(old, POOL, name)): str(storage.volume_path(new, POOL, name))
        for name in names
    }
    try:
        with _turn(b), _cleared(_way(b)) as way:
            migration.migrate(
                old,
                new,
                b.server_id,
                definition=domain_xml(spec_of(there, here, ())),  # data disks stay, so none
                renamed=paths,
                networks={b.network.name: there.network.name},
                way=way,
                tell=told.tell,
                pause=bool(b.request.get("pauses")),
            )
    except ClaimLost:
        raise
    except InnkeeperError:
        if not _arrived(b, told):
            raise
    took = migration.downtime(new, b.server_id)
    journal.note(b.claim, SWITCH, **took)
    if b.request.get("pauses"):
        return f"with its memory, it stood still for {took.get('time_elapsed', 0)} ms at most"
    return f"live, it stood still for {took.get('downtime', 0)} ms"


def _way(b: Blueprint) -> Way:
    """Return the way from one QEMU to the other.

    Lab hosts see each other's files, and nothing else: there it is two sockets of the operation's,
    not in a pool, as one may be a mount that only its own host sees.
    """
    there = b.there.host
    if b.host.channel.startswith("lab:") and there.channel.startswith("lab:"):
        return Way(sockets=settings().home / "lab" / short(b.operation_id))
    return Way(address=there.edge_address)


@contextmanager
def _cleared(way: Way) -> Iterator[Way]:
    """Leave nothing on the way, neither what a dead run left nor what this one does."""
    way.forget()
    try:
        yield way
    finally:
        way.forget()


def _arrived(b: Blueprint, told: Told) -> bool:
    """Tell whether the guest runs on the new host; if not, see that it runs on the old one.

    Exactly one of them may run it. When libvirt does not say that it has left, and the new host
    does not run it, what arrived there is no guest yet: it is destroyed first.

    Raises:
        HostUnreachable: it cannot be said now.
        GuestGone: it runs nowhere.
    """
    old, new = connect(b.host.uri), connect(b.there.host.uri)
    migration.await_end(old, b.server_id, told.tell)
    here = migration.look(old, b.server_id)
    there = migration.look(new, b.server_id)
    if here.left or (there.runs and not here.runs):
        return True
    if there.state not in {None, PowerState.OFF}:
        journal.heartbeat(b.claim)  # it is the next run's, if this one was taken over
        guest.destroy(new, b.server_id)  # what arrived of it, and was never let run
    _run_on(b, here)
    return False


def _run_on(b: Blueprint, here: Side) -> None:
    if here.runs:
        return
    if here.state is not PowerState.PAUSED:
        raise GuestGone(
            f"{b.name} went off while it was moved: start it (`innkeeper server start {b.name}`), "
            "then move it again."
        )
    guest.start(connect(b.host.uri), b.server_id)


@switch_over.undone_by
def take_back(b: Blueprint) -> str:
    """See where the guest is: if the new host runs it, there is no way back any more."""
    if not b.step_data.get("leaving"):
        return "it never left"
    old = connect(b.host.uri)
    if _live(b):
        migration.abort(old, b.server_id)
        migration.await_end(old, b.server_id, lambda _fraction, _detail: None)
        _way(b).forget()  # a run that died left it
        if migration.look(old, b.server_id).runs:
            return "it runs where it was"
    new = connect(b.there.host.uri)
    if migration.look(old, b.server_id).left or migration.look(new, b.server_id).runs:
        migrating.switch_host(b.claim)
        return f"it runs on {b.there.host.name} already: it stays there"
    if _live(b):
        journal.heartbeat(b.claim)
        guest.destroy(new, b.server_id)
        state = migration.look(old, b.server_id).state
        if state is PowerState.PAUSED:
            guest.start(old, b.server_id)
    return "it is where it was"


@step("answer-there")
def answer_there(b: Blueprint) -> str:
    """Wait for the guest's answer at the new host's edge, if it runs; set a clock that is late."""
    if not _runs(b):
        return "it is off"
    try:
        said = expect_answer(b, "answer-there")
    except GuestUnreachable as silent:
        said = f"it runs, but: {silent}"
        if journal.noted(b.claim, STAND_BY).get(ANSWERED):
            migrating.tell_silence(b.claim, str(silent))
    return f"{said}; clock {correct_clock(b)}" if b.request.get("pauses") else said
