"""The guest itself: can one log in, and is it who it should be."""

import time

from innkeeper.configuration import login
from innkeeper.configuration.login import LoginRefused
from innkeeper.configuration.target import Target
from innkeeper.errors import OperationCancelled, PermanentError, TransientError
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import journal
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.progress import Progress
from tasks.step import step

POLL_SECONDS = 0.25
PROGRESS_SECONDS = 5.0


class GuestUnreachable(PermanentError):
    """The guest runs, but nobody can log in."""


class GuestDied(TransientError):
    """The guest went off while it was waited for."""


class WrongGuest(PermanentError):
    """Whoever answers is not the guest that was made."""


def target_of(b: Blueprint) -> Target:
    """Return where and as whom to log in; the host key is known, so nobody trusts blindly."""
    return Target(
        host=b.host.edge_address,
        port=b.ssh_port,
        user=b.image.login_user,
        host_key=b.host_key_public,
        name=b.name,
    )


def _wait(b: Blueprint, step_name: str) -> str:
    """Wait until a login works.

    Raises:
        GuestDied: QEMU is gone; a retry starts the guest again.
        GuestUnreachable: the deadline passed.
        OperationCancelled: somebody asked for that meanwhile.
    """
    connection, target = connect(b.host.uri), target_of(b)
    guest.start(connection, b.server_id)
    begun = told = time.monotonic()
    last, progress = "no answer", Progress(b.claim, step_name)
    while (waited := time.monotonic() - begun) < settings().reachable_seconds:
        try:
            login.run(target, ["true"], timeout=10.0)
        except (LoginRefused, TransientError) as error:
            last = str(error)
        else:
            return f"login works after {waited:.0f} s"
        if guest.power_state(connection, b.server_id) is not PowerState.RUNNING:
            raise GuestDied(f"{b.name} went off while it was booting: starting it again.")
        if journal.cancelled(b.claim):
            raise OperationCancelled(f"Cancelled on request, while {b.name} was booting.")
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            fraction = min(waited / settings().reachable_seconds, 1.0)
            progress.tell(fraction, f"waiting for SSH, {waited:.0f} s: {last}")
        time.sleep(POLL_SECONDS)
    raise GuestUnreachable(
        f"{b.name} runs, but nobody could log in at {target.host}:{target.port} within "
        f"{settings().reachable_seconds:.0f} s ({last}): look at what its "
        f"console said (`innkeeper server console {b.name}`), and at its user-data."
    )


@step("reachable")
def wait_reachable(b: Blueprint) -> str:
    """Wait until the guest answers on SSH with the host key that we gave it."""
    return "simulated" if b.host.simulated else _wait(b, "reachable")


@step("answer")
def wait_answer(b: Blueprint) -> str:
    """Wait for an answer; a guest that its owner closed to SSH is none of our faults."""
    return answer(b, "answer")


def answer(b: Blueprint, step_name: str) -> str:
    """Wait for an answer in a step of that name; none is said, not raised."""
    try:
        return expect_answer(b, step_name)
    except GuestUnreachable as silent:
        return f"started, but: {silent}"


def expect_answer(b: Blueprint, step_name: str) -> str:
    """Wait for an answer in a step of that name.

    Raises:
        GuestUnreachable: the deadline passed.
    """
    return "simulated" if b.host.simulated else _wait(b, step_name)


@step("verify")
def verify_guest(b: Blueprint) -> str:
    """Log in and compare the guest's name with the server's."""
    if b.host.simulated:
        return "simulated"
    said = login.run(target_of(b), ["cat", "/proc/sys/kernel/hostname"], timeout=30.0).strip()
    if said != b.name:
        raise WrongGuest(
            f"The guest at {b.ssh_port} calls itself '{said}', not '{b.name}': its user-data may "
            "set another hostname, or its image does not read NoCloud seeds."
        )
    return f"{said} answers"
