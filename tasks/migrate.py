"""To another host: the disk first, then the guest; until that runs there, all can be undone.

Where the guest is, the hosts are asked, not the journal: a run may have died in the middle of
libvirt's call. Before the call a note says that the guest may be elsewhere from now on.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import seed_of, short
from innkeeper.errors import ClaimLost, InnkeeperError, PermanentError
from innkeeper.host import checksum
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import guest, migration
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.migration import Side, Way
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.snapshot import ROOT
from innkeeper.hypervisor.xml.domain import domain_xml
from innkeeper.services import journal, migrating
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.carry import DATA, DISK, PROVEN, empty, mirrored, turn
from tasks.files import DiskInUse, data_volumes, length_of, path_of
from tasks.firmware import keep_nvram, leave_nvram
from tasks.ground import live
from tasks.guest import spec_of
from tasks.guest_login import GuestUnreachable, expect_answer
from tasks.resize import require_window
from tasks.shelf import Told
from tasks.step import step
from tasks.suspension import correct_clock

STAND_BY = "stand-by"
ANSWERED = "answered"
"""Noted in that step: whether the guest was well enough to answer before it was moved live."""

SWITCH = "switch-over"


class GuestGone(PermanentError):
    """The guest runs on neither host."""


def _runs(b: Blueprint) -> bool:
    return b.previous_status is Status.ACTIVE


def _answers(b: Blueprint) -> bool:
    return not b.host.simulated and guest.agent_ping(connect(b.host.uri), b.server_id)


@step(STAND_BY)
def stand_by(b: Blueprint) -> str:
    """Shut a running guest down that cannot move while it runs."""
    if b.committed:
        return "done before"
    if not _runs(b):
        keep_nvram(b)
        return "it is off"
    if live(b):
        leave_nvram(b)
        if ANSWERED not in b.step_data:
            journal.note(b.claim, STAND_BY, **{ANSWERED: _answers(b)})
        return "it runs on"
    if "stopping" not in b.step_data:
        require_window(b)
        journal.note(b.claim, STAND_BY, stopping=True)
    patience = settings().agent_stop_seconds, settings().acpi_stop_seconds
    ended = guest.stop(connect(b.host.uri), b.server_id, *patience)
    keep_nvram(b)
    return f"stopped ({ended})"


@stand_by.undone_by
def go_on_as_before(b: Blueprint) -> str:
    """Start the guest where it was, if it was shut down for this."""
    if live(b) or not _runs(b) or "stopping" not in b.step_data:
        return "it was not touched"
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


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
        said = _move(b) if live(b) else _start_there(b)
    migrating.switch_host(b.claim)
    return f"on {b.there.host.name}: {said}"


def _require_untouched(b: Blueprint) -> None:
    """See that nobody has started the guest, or written to its disk, since that was copied."""
    state = guest.power_state(connect(b.host.uri), b.server_id)
    if state not in {PowerState.OFF, PowerState.CRASHED}:
        raise DiskInUse(f"{b.name} is {state} while it is moved: leave it off, then try again.")
    if b.host.simulated:
        return
    copied = {b.root_volume: journal.noted(b.claim, DISK).get(PROVEN)}
    copied |= journal.noted(b.claim, DATA).get(PROVEN, {})
    for name in (b.root_volume, *data_volumes(b)):
        path, length = path_of(b, name), length_of(b, name)
        if checksum.blake2b(open_channel(b.host.channel), path, length) != copied.get(name):
            raise DiskInUse(f"The disk {name} of {b.name} is not what was copied: move it again.")


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
        empty(b.there)
    journal.note(b.claim, SWITCH, leaving=True)
    old, new = connect(b.host.uri), connect(b.there.host.uri)
    here, there = b.root_volume, b.there
    names = (here, seed_of(here), *data_volumes(b))
    paths = {str(path_of(b, name)): str(path_of(there, name)) for name in names}
    try:
        with turn(b), _cleared(_way(b)) as way:
            migration.migrate(
                old,
                new,
                b.server_id,
                definition=domain_xml(spec_of(there, here, there.data.attached)),
                renamed=paths,
                filled=(ROOT, *(disk.target for disk in mirrored(b))),
                networks=_networks(b),
                way=way,
                tell=told.tell,
                pause=bool(b.request.get("pauses")),
                whole=bool(b.ground),
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


def _networks(b: Blueprint) -> dict[str, str]:
    """Return the networks of the guest's cards at the old host, and their names at the new one."""
    pairs = zip(b.cards.attached, b.there.cards.attached, strict=True)
    further = {here.network: there.network for here, there in pairs}
    known = {here: there for here, there in further.items() if here and there}
    return {b.network.name: b.there.network.name, **known}


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
    if live(b):
        migration.abort(old, b.server_id)
        migration.await_end(old, b.server_id, lambda _fraction, _detail: None)
        _way(b).forget()  # a run that died left it
        if migration.look(old, b.server_id).runs:
            return "it runs where it was"
    new = connect(b.there.host.uri)
    if migration.look(old, b.server_id).left or migration.look(new, b.server_id).runs:
        migrating.switch_host(b.claim)
        return f"it runs on {b.there.host.name} already: it stays there"
    if live(b):
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
