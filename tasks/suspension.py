"""Suspending a guest and waking it."""

import time

from innkeeper.domain.specs import SuspendRequest
from innkeeper.errors import PermanentError
from innkeeper.hypervisor import guest, suspension
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import AgentUnavailable, DomainAbsent, OperationTimedOut
from innkeeper.hypervisor.power import PowerState
from innkeeper.services.blueprint import Blueprint
from tasks.step import step

CLOCK_SECONDS = 5.0
"""How long a woken guest's agent may take to answer; its image may have none at all."""

_POLL_SECONDS = 0.2


@step("suspend")
def suspend_guest(b: Blueprint) -> str:
    """Save the guest's memory to the host's disk, or let it stand still in QEMU."""
    connection = connect(b.host.uri)
    if SuspendRequest.model_validate(b.request).mode == "pause":
        suspension.pause(connection, b.server_id)
        return "paused"
    suspension.save(connection, b.server_id)
    return "saved"


@suspend_guest.undone_by
def wake_again(b: Blueprint) -> str:
    """Let it run as before."""
    guest.start(connect(b.host.uri), b.server_id)
    return "running"


@step("resume")
def resume_guest(b: Blueprint) -> str:
    """Wake the guest: from its saved memory, or where it stands still."""
    connection = connect(b.host.uri)
    saved = suspension.is_saved(connection, b.server_id)
    guest.start(connection, b.server_id)
    return "restored" if saved else "running"


@resume_guest.undone_by
def suspend_again(b: Blueprint) -> str:
    """Let it stand still again, if it came to run at all."""
    connection = connect(b.host.uri)
    if guest.power_state(connection, b.server_id) is not PowerState.RUNNING:
        return "it never ran"
    suspension.pause(connection, b.server_id)
    return "paused"


@step("clock")
def set_clock(b: Blueprint) -> str:
    """Set the guest's clock, which stood still with it; a guest without an agent keeps it late."""
    return correct_clock(b)


def correct_clock(b: Blueprint) -> str:
    """Set the clock of a guest that stood still; return how that went."""
    connection, deadline = connect(b.host.uri), time.monotonic() + CLOCK_SECONDS
    while True:
        try:
            guest.set_clock(connection, b.server_id)
        except DomainAbsent:
            raise
        except PermanentError as error:  # the guest cannot: its work goes on with a late clock
            return f"not set: {error}"
        except (AgentUnavailable, OperationTimedOut):
            if time.monotonic() > deadline:
                return "no guest agent answers: the guest's clock is late until it is set there"
        else:
            return "set"
        time.sleep(_POLL_SECONDS)
