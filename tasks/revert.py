"""Going back to a snapshot: a fresh layer on its frozen file, and its memory if it has one."""

from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import POOL
from innkeeper.domain.steps import ArtifactKind
from innkeeper.hypervisor import guest, snapshot, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import snapshots
from innkeeper.services.blueprint import Blueprint
from tasks.guest import define_on
from tasks.guest_login import answer
from tasks.step import step
from tasks.suspension import correct_clock


def _fresh(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    # Once it is the server's disk, an undo has to leave it.
    return [] if _adopted(b) else [(ArtifactKind.VOLUME, b.revert_layer)]


def _old(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, b.old_volume)] if b.old_volume else []


def _adopted(b: Blueprint) -> bool:
    return b.root_volume == b.revert_layer


@step("cut-power")
def cut_power(b: Blueprint) -> str:
    """Power the server off at once: what it has not written by now is given up anyway."""
    if _adopted(b):
        return "done before"
    guest.destroy(connect(b.host.uri), b.server_id)
    return "off"


@cut_power.undone_by
def power_as_before(b: Blueprint) -> str:
    """Start the server if it was running before."""
    if b.previous_status is not Status.ACTIVE:
        return "it was off before"
    guest.start(connect(b.host.uri), b.server_id)
    return "running again"


@step("fresh-layer", makes=_fresh)
def create_fresh_layer(b: Blueprint) -> str:
    """Create an empty layer on the snapshot's file; one that a dead run has used is made anew."""
    if _adopted(b):
        return "done before"
    connection = connect(b.host.uri)
    frozen = b.layers.file_of(b.snapshot.id)
    storage.delete_volume(connection, POOL, b.revert_layer)
    backing = storage.volume_path(connection, POOL, frozen)
    storage.ensure_volume(
        connection, POOL, b.revert_layer, b.disk_bytes, backing_path=backing, replace=True
    )
    return f"{b.revert_layer} on {frozen}"


@create_fresh_layer.undone_by
def erase_fresh_layer(b: Blueprint) -> str:
    """Delete the fresh layer, unless it is the server's disk already."""
    if _adopted(b):
        return "the server's disk: kept"
    storage.delete_volume(connect(b.host.uri), POOL, b.revert_layer)
    return f"{b.revert_layer} deleted"


@step("switch-layer")
def switch_layer(b: Blueprint) -> str:
    """Put the domain on the fresh layer."""
    return define_on(b, b.revert_layer)


@switch_layer.undone_by
def switch_layer_back(b: Blueprint) -> str:
    """Put the domain on the disk that the database names."""
    return define_on(b, b.root_volume)


@step("go-on")
def go_on(b: Blueprint) -> str:
    """Go on from the memory; without one, start the server if it was running."""
    if _adopted(b):
        return "done before"
    connection = connect(b.host.uri)
    if not b.snapshot.memory_volume:
        return power_as_before(b) or ""
    if b.host.simulated:
        guest.start(connection, b.server_id)
        return "simulated"
    memory = storage.volume_path(connection, POOL, b.snapshot.memory_volume)
    if not snapshot.is_active(connection, b.server_id):
        layer = memory.with_name(b.revert_layer)
        snapshot.restore(connection, memory, layer, b.network.name)
    return "goes on where it was"


@go_on.undone_by
def stop_reverted(b: Blueprint) -> str:
    """Power off what was started on the fresh layer, unless it is the server's disk already."""
    if not _adopted(b):
        guest.destroy(connect(b.host.uri), b.server_id)
    return "off"


@step("adopt-layer")
def adopt_layer(b: Blueprint) -> str:
    """Make the fresh layer the server's disk in the database: no way back from here."""
    snapshots.adopt_layer(b.claim, b.revert_layer)
    return b.revert_layer


@step("back")
def come_back(b: Blueprint) -> str:
    """Set the clock of a guest that goes on; then wait for its answer, as for one that boots."""
    said = []
    if b.snapshot.memory:
        said.append(f"clock {correct_clock(b)}")
    elif b.previous_status is not Status.ACTIVE:
        return "off, as before"
    return ", ".join([*said, answer(b, "back")])


@step("old-layer", removes=_old)
def delete_old_layer(b: Blueprint) -> str:
    """Delete the disk that was given up."""
    for _kind, name in _old(b):
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return f"{b.old_volume} deleted"
