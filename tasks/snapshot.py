"""Snapshots: the disk is frozen where it is, and the server goes on in a fresh layer above it.

A clone begins with these steps, too: the server that they see then is its source.
"""

from contextlib import suppress
from pathlib import Path

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL, memory_volume
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import InnkeeperError, PermanentError
from innkeeper.host import layers
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import blockjob, guest, snapshot, storage, suspension
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.suspension import GuestOff
from innkeeper.services import journal, snapshots
from innkeeper.services.blueprint import Blueprint
from tasks.guest import define_on
from tasks.progress import Progress
from tasks.step import step
from tasks.suspension import correct_clock


class GuestAgentMissing(PermanentError):
    """A quiesced snapshot was demanded, and nobody in the guest can do that."""


def _layer(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    if _adopted(b):
        return []  # an undo has to leave it
    made = [(ArtifactKind.VOLUME, b.snapshot_layer)]
    if b.snapshot.memory:
        made.append((ArtifactKind.SNAPSHOT, memory_volume(b.server_id, b.snapshot.id)))
    return made


def _adopted(b: Blueprint) -> bool:
    # Not by the disk's name: a source goes its own way as soon as it is frozen for a clone.
    return b.snapshot.volume is not None


@step("layer", makes=_layer)
def create_layer(b: Blueprint) -> str:
    """Create the empty layer that the server will write to."""
    if not _adopted(b):
        connection = connect(b.host.uri)
        storage.ensure_volume(
            connection,
            POOL,
            b.snapshot_layer,
            b.disk_bytes,
            backing_path=storage.volume_path(connection, POOL, b.root_volume),
            replace=not b.step_was_done,
        )
    return b.snapshot_layer


@create_layer.undone_by
def erase_layer(b: Blueprint) -> str:
    """Delete the layer and what there is of the memory, unless the server runs on it for good."""
    if _adopted(b):
        return "the server's disk: kept"
    for _kind, name in _layer(b):
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return f"{b.snapshot_layer} deleted"


@step("capture")
def capture_state(b: Blueprint) -> str:
    """Switch the server to the layer in one instant; what it wrote until then is the snapshot."""
    if _adopted(b):
        return "done before"
    connection = connect(b.host.uri)
    if b.attempt > 1 or "kind" in b.step_data:  # who died in here may have left it frozen
        snapshot.thaw(connection, b.server_id)
    if snapshot.is_active(connection, b.server_id):
        kind = _capture_running(b)
    elif b.snapshot.memory and "kind" not in b.step_data:
        raise GuestOff(f"{b.name} went off: there is no memory to keep. Start it and try again.")
    elif suspension.is_saved(connection, b.server_id):
        kind = _capture_saved(b)
    else:
        kind = _note(b, b.step_data.get("kind", "stopped"))
    define_on(b, b.snapshot_layer)
    return kind


def _capture_running(b: Blueprint) -> str:
    connection = connect(b.host.uri)
    layer = storage.volume_path(connection, POOL, b.snapshot_layer)
    if snapshot.root_disk(connection, b.server_id) == layer:
        kind = str(b.step_data.get("kind", "crash-consistent"))
    elif b.host.simulated:
        kind = _note(b, "memory" if b.snapshot.memory else "crash-consistent")
        if b.snapshot.memory:
            storage.upload(connection, POOL, layer_memory(b), b"simulated", "raw")
    elif b.snapshot.memory:
        kind = _note(b, "memory")
        memory = layer.with_name(layer_memory(b))
        snapshot.capture(connection, b.server_id, layer, memory=memory)
        correct_clock(b)  # it stood still
    else:
        kind = _capture_disk(b, layer)
    if not _rests(b) and guest.power_state(connection, b.server_id) is PowerState.PAUSED:
        guest.start(connection, b.server_id)  # a daemon that died in here left it so
    return kind


def _rests(b: Blueprint) -> bool:
    return b.status is Status.SUSPENDED


def _capture_saved(b: Blueprint) -> str:
    """Have a guest whose memory is in a file of the host go on in the layer once it is woken.

    Its file systems are as they were when it fell asleep: what it had not written is in the memory.
    """
    connection, kind = connect(b.host.uri), _note(b, "crash-consistent")
    layer = storage.volume_path(connection, POOL, b.snapshot_layer)
    snapshot.wake_on(connection, b.server_id, layer)
    return kind


def _capture_disk(b: Blueprint, layer: Path) -> str:
    connection, wish = connect(b.host.uri), b.request["quiesce"]
    if wish == "required" and not guest.agent_ping(connection, b.server_id):
        raise GuestAgentMissing(
            f"No guest agent answers in {b.name}, so its file systems cannot be quiesced: start "
            "qemu-guest-agent there, or ask with quiesce 'auto' or 'off'."
        )
    if wish == "required" or (wish == "auto" and guest.agent_ping(connection, b.server_id)):
        _note(b, "quiesced")
        try:
            snapshot.capture(connection, b.server_id, layer, quiesce=True)
        except InnkeeperError:
            snapshot.thaw(connection, b.server_id)
            if wish == "required":
                raise
        else:
            return "quiesced"
    _note(b, "crash-consistent")
    snapshot.capture(connection, b.server_id, layer)
    return "crash-consistent"


def _note(b: Blueprint, kind: str) -> str:
    journal.note(b.claim, "capture", kind=kind)
    return kind


def layer_memory(b: Blueprint) -> str:
    """Return the name of the file with the memory of the snapshot that is taken."""
    return memory_volume(b.server_id, b.snapshot.id)


@capture_state.undone_by
def merge_back(b: Blueprint) -> str:
    """Thaw the guest, and have it go on in the disk that it had, with all it wrote since."""
    if _adopted(b):
        return "the snapshot stays"
    connection = connect(b.host.uri)
    snapshot.thaw(connection, b.server_id)
    before = storage.volume_path(connection, POOL, b.root_volume)
    snapshot.wake_on(connection, b.server_id, before)
    if snapshot.root_disk(connection, b.server_id) != before:
        if b.host.simulated:
            pass
        elif snapshot.is_active(connection, b.server_id):
            tell = Progress(b.claim, "capture").now_and_then("merging back")
            blockjob.commit_top(connection, b.server_id, before, tell)
        else:
            layer = storage.volume_path(connection, POOL, b.snapshot_layer)
            layers.commit(open_channel(b.host.channel), layer)
    define_on(b, b.root_volume)
    if not _rests(b) and guest.power_state(connection, b.server_id) is PowerState.PAUSED:
        with suppress(PoolFull):  # a pool without space stopped it: there is some again, or not yet
            guest.start(connection, b.server_id)
    return f"on {b.root_volume} as before"


@step("adopt-snapshot")
def adopt_snapshot(b: Blueprint) -> str:
    """Write down that the snapshot is there: from here on it is one."""
    if _adopted(b):
        return "done before"
    connection = connect(b.host.uri)
    memory = layer_memory(b) if b.snapshot.memory else None
    names = [b.root_volume, *([memory] if memory else [])]
    sizes = storage.allocated(connection, POOL, names)
    if set(sizes) != set(names):
        missing = ", ".join(sorted(set(names) - set(sizes)))
        raise snapshot.SnapshotMissing(f"The snapshot is not complete, {missing} is missing.")
    state = journal.noted(b.claim, "capture").get("kind", "crash-consistent")
    snapshots.adopt(
        b.claim, b.snapshot_layer, kind=state, memory_volume=memory, size_bytes=sum(sizes.values())
    )
    return f"{state}, {sum(sizes.values()) / 2**20:.1f} MiB"
