"""Root disks: qcow2 on the image's base volume."""

from innkeeper.domain.naming import POOL, seed_of
from innkeeper.domain.steps import ArtifactKind
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import servers
from innkeeper.services.blueprint import Blueprint
from tasks.files import root_file
from tasks.step import step


def _new(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, b.new_volume)]


def _old(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    if b.old_volume is None:
        return []
    return [(ArtifactKind.VOLUME, b.old_volume), (ArtifactKind.SEED, seed_of(b.old_volume))]


def _ensure(b: Blueprint, name: str) -> str:
    connection = connect(b.host.uri)
    backing = storage.volume_path(connection, POOL, b.image.volume)
    # Until the step is done nothing runs on the disk: half a one from a dead run is made anew.
    storage.ensure_volume(
        connection, POOL, name, b.disk_bytes, backing_path=backing, replace=not b.step_was_done
    )
    return f"{name}, {b.disk_gib} GiB on {b.image.name}"


@step("volume", makes=root_file)
def create_volume(b: Blueprint) -> str:
    """Create the root disk on its backing image."""
    return _ensure(b, b.root_volume)


@create_volume.undone_by
def erase_volume(b: Blueprint) -> str:
    """Delete the root disk."""
    storage.delete_volume(connect(b.host.uri), POOL, b.root_volume)
    return f"{b.root_volume} deleted"


@step("remove-volume", removes=root_file, on_host=True)
def delete_volume(b: Blueprint) -> str:
    """Delete the root disk."""
    return erase_volume(b) or ""


@step("new-volume", makes=_new)
def create_new_volume(b: Blueprint) -> str:
    """Create a fresh root disk beside the one in use."""
    return _ensure(b, b.new_volume)


@create_new_volume.undone_by
def erase_new_volume(b: Blueprint) -> str:
    """Delete the fresh root disk, unless the server runs on it already."""
    if b.adopted:
        return "the server runs on it: kept"
    storage.delete_volume(connect(b.host.uri), POOL, b.new_volume)
    return f"{b.new_volume} deleted"


@step("adopt-volume")
def adopt_volume(b: Blueprint) -> str:
    """Make the fresh disk the server's root disk in the database: no way back from here."""
    servers.adopt_volume(b.claim, b.new_volume)
    return b.new_volume


@step("old-volume", removes=_old)
def delete_old_volume(b: Blueprint) -> str:
    """Delete the replaced disk and its seed."""
    connection = connect(b.host.uri)
    for _kind, name in _old(b):
        storage.delete_volume(connection, POOL, name)
    return f"{b.old_volume} deleted"
