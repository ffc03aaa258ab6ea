"""Verifying a snapshot: a throw-away guest boots from it, and all of it is thrown away again.

The guest writes to a layer of its own above the frozen file, which is only read, and it has no
network: it can neither be taken for the server nor do anything in its name.
"""

import time
from contextlib import suppress
from pathlib import Path

from innkeeper.domain import verification
from innkeeper.domain.naming import (
    POOL,
    nvram_file,
    probe_console,
    probe_id,
    probe_name,
    probe_volume,
    seed_of,
)
from innkeeper.domain.specs import UEFI
from innkeeper.domain.steps import ArtifactKind
from innkeeper.domain.verification import Outcome, Verdict
from innkeeper.errors import InnkeeperError, OperationCancelled, TransientError
from innkeeper.hypervisor import agent, guest, storage, throwaway
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import (
    DomainAbsent,
    FileMissing,
    GuestProcessFailed,
    HostOutOfMemory,
    ImageUnusable,
    VolumeAbsent,
)
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, domain_xml
from innkeeper.services import consoles, journal, snapshots
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.clone import SourceGone
from tasks.progress import Progress
from tasks.step import step

POLL_SECONDS = 0.5
PROGRESS_SECONDS = 5.0
AGENT_SECONDS = 15.0
"""How long after its login prompt a guest's agent may still come up."""

LOOK_SECONDS = 20.0
BOOTS = 2
"""How often a guest that goes off while it boots is started: once may be the host's doing."""

ROOM_BYTES = 256 << 20
"""What has to be free in the pool: a full one would stop the guests of other servers."""

_UNREADABLE = (VolumeAbsent, FileMissing, ImageUnusable)

LOOK = "cat /sys/fs/ext4/*/errors_count 2>/dev/null; true"
"""Says in the guest how many errors each of its ext4 file systems has counted."""


class ProbeEnded(TransientError):
    """The throw-away guest went off while it was looked at."""


def _layer(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, probe_volume(b.server_id))]


def _domain(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.DOMAIN, probe_name(b.server_id))]


def _both(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return _domain(b) + _layer(b)


@step("probe-layer", makes=_layer)
def create_probe_layer(b: Blueprint) -> str:
    """Create what the throw-away guest writes to, above the snapshot's frozen file."""
    if b.snapshot.volume is None:
        raise SourceGone(f"Snapshot '{b.snapshot.name}' has no file: it cannot be verified.")
    with suppress(*_UNREADABLE):  # the verdict on that is the next step's
        _fresh_layer(b, b.snapshot.volume)
    return f"{probe_volume(b.server_id)} on {b.snapshot.volume}"


def _fresh_layer(b: Blueprint, frozen: str) -> None:
    connection = connect(b.host.uri)
    throwaway.remove(connection, probe_id(b.server_id))  # a dead run's would have it open
    storage.delete_volume(connection, POOL, probe_volume(b.server_id))
    storage.ensure_volume(
        connection,
        POOL,
        probe_volume(b.server_id),
        b.disk_bytes,
        backing_path=storage.volume_path(connection, POOL, frozen),
    )


@create_probe_layer.undone_by
def erase_probe_layer(b: Blueprint) -> str:
    """Delete the layer."""
    storage.delete_volume(connect(b.host.uri), POOL, probe_volume(b.server_id))
    return f"{probe_volume(b.server_id)} deleted"


@step("probe-boot", makes=_domain)
def boot_probe(b: Blueprint) -> str:
    """Boot the throw-away guest, wait for a sign of its life, and note what that proves."""
    found = b.step_data
    if "outcome" in found:  # what follows is only to throw the guest away
        return f"{found['outcome']}: {found['detail']}"
    begun = time.monotonic()
    verdict = _no_room(b) or _boot(b)
    journal.note(
        b.claim,
        "probe-boot",
        outcome=verdict.outcome,
        detail=verdict.detail,
        seconds=round(time.monotonic() - begun, 1),
    )
    return f"{verdict.outcome}: {verdict.detail}"


@boot_probe.undone_by
def end_probe(b: Blueprint) -> str:
    """End the guest; libvirt forgets it."""
    throwaway.remove(connect(b.host.uri), probe_id(b.server_id))
    consoles.forget_probe(b.host.channel, b.server_id)
    return f"{probe_name(b.server_id)} is gone"


@step("probe-away", removes=_both)
def throw_away(b: Blueprint) -> str:
    """End the guest and delete what it wrote."""
    end_probe(b)
    return erase_probe_layer(b) or ""


@step("adopt-verdict")
def adopt_verdict(b: Blueprint) -> str:
    """Write down at the snapshot what was proved."""
    found = journal.noted(b.claim, "probe-boot")
    snapshots.adopt_verdict(b.claim, found["outcome"], found["detail"], found["seconds"])
    return str(found["outcome"])


def _no_room(b: Blueprint) -> Verdict | None:
    if b.host.simulated:
        return None
    free = storage.pool_capacity(connect(b.host.uri), POOL).free_bytes
    if free >= ROOM_BYTES:
        return None
    return Verdict(
        "not-verifiable",
        f"the pool of {b.host.name} has {free >> 20} MiB free, and {ROOM_BYTES >> 20} MiB have to "
        "be: a guest that fills it up would stop others",
    )


def _boot(b: Blueprint) -> Verdict:
    for _ in range(BOOTS):
        with suppress(ProbeEnded):
            return _boot_once(b)
    return Verdict("failed", f"it went off while it booted, {BOOTS} times")


def _boot_once(b: Blueprint) -> Verdict:
    journal.heartbeat(b.claim)  # the guest may be another attempt's by now
    try:
        _fresh_layer(b, b.snapshot.volume or "")
        consoles.forget_probe(b.host.channel, b.server_id)
        throwaway.boot(connect(b.host.uri), domain_xml(_spec(b)))
    except HostOutOfMemory as error:
        return Verdict("not-verifiable", f"no guest could be started for it: {error}")
    except _UNREADABLE as error:
        return Verdict("failed", f"its file cannot be read: {error}")
    except GuestProcessFailed as error:
        about_disk = any(word in str(error) for word in (probe_volume(b.server_id), "qcow2"))
        outcome: Outcome = "failed" if about_disk else "not-verifiable"
        return Verdict(outcome, f"QEMU does not start on it: {error}")
    if b.host.simulated:
        return Verdict("not-verifiable", "its host is simulated, nothing boots there")
    return _watch(b)


def _spec(b: Blueprint) -> DomainSpec:
    connection, name = connect(b.host.uri), probe_name(b.server_id)
    return DomainSpec(
        server_id=probe_id(b.server_id),
        project_id=b.project_id,
        operation_id=b.operation_id,
        name=name,
        title=f"verification of {b.snapshot.name} of {b.name}",
        vcpus=1,
        memory_mib=int(b.request["probe_mib"]),
        virt_type=b.host.virt_type,
        firmware=b.disk_image.firmware,
        nvram_path=Path(nvram_file(name)) if b.disk_image.firmware == UEFI else None,
        disks=(DiskSpec(storage.volume_path(connection, POOL, probe_volume(b.server_id))),),
        console_log_path=Path(probe_console(b.server_id)),
        seed_path=storage.volume_path(connection, POOL, seed_of(b.root_volume)),
    )


def _watch(b: Blueprint) -> Verdict:
    """Wait for a sign of life, or of trouble.

    Raises:
        ProbeEnded: the guest is off.
        OperationCancelled: somebody asked for that meanwhile.
    """
    begun = told = time.monotonic()
    prompt: float | None = None
    limit, progress = settings().verify_seconds, Progress(b.claim, "probe-boot")
    console = ""
    while (waited := time.monotonic() - begun) < limit:
        if verdict := _by_state(b):
            return verdict
        if _pings(b):
            return verification.by_agent(time.monotonic() - begun, _errors(b))
        console = consoles.probe_output(b.host.channel, b.server_id)
        if why := verification.trouble(console):
            return _up_to_disks(b, Verdict("failed", why))
        if verification.at_login(console):
            prompt = waited if prompt is None else prompt
            if waited - prompt > AGENT_SECONDS:
                return verification.by_login(prompt)
        if journal.cancelled(b.claim):
            raise OperationCancelled("Cancelled on request, while its guest was booting.")
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            progress.tell(min(waited / limit, 1.0), f"waiting for its guest, {waited:.0f} s")
        time.sleep(POLL_SECONDS)
    if prompt is not None:
        return verification.by_login(prompt)
    silent = verification.silent(console, limit, had_agent=b.snapshot.kind == "quiesced")
    return _up_to_disks(b, silent)


def _up_to_disks(b: Blueprint, verdict: Verdict) -> Verdict:
    return verification.without_disks(verdict, [disk.name for disk in b.data.attached])


def _by_state(b: Blueprint) -> Verdict | None:
    connection, probe = connect(b.host.uri), probe_id(b.server_id)
    state = guest.power_state(connection, probe)
    if state is PowerState.PAUSED and "no space" in guest.disk_errors(connection, probe).values():
        return Verdict("not-verifiable", f"the pool of {b.host.name} is full: free space there")
    if state is not PowerState.RUNNING:
        raise ProbeEnded(f"The guest that verifies a snapshot of {b.name} went off.")
    return None


def _pings(b: Blueprint) -> bool:
    try:
        return guest.agent_ping(connect(b.host.uri), probe_id(b.server_id))
    except DomainAbsent:
        raise ProbeEnded(f"The guest that verifies a snapshot of {b.name} is gone.") from None


def _errors(b: Blueprint) -> int | None:
    """Return how many errors the guest's ext4 file systems have counted; None: it is not told."""
    look = ["/bin/sh", "-c", LOOK]
    try:
        said = agent.execute(
            connect(b.host.uri), probe_id(b.server_id), look, seconds=LOOK_SECONDS
        ).output.split()
    except InnkeeperError:  # an agent may be forbidden to run anything
        return None
    return sum(int(word) for word in said if word.isdecimal()) if said else None
