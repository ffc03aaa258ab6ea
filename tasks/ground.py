"""What a linked clone stands on goes along with it, until its copy is a disk of its own.

The files are its source's and frozen: they are read, never changed. Their copies have names of the
clone's. A guest that moves while it runs needs none: QEMU sends all that it sees of its disk.
"""

from innkeeper.domain.layers import Rebase
from innkeeper.domain.naming import POOL, ground_volume
from innkeeper.domain.steps import ArtifactKind
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import journal
from innkeeper.services.blueprint import Blueprint
from tasks.merge import ensure
from tasks.step import step

FLATTEN = "flatten-copy"
_ALONE = "alone"
"""Noted in that step: the copy stands on its image only."""


def live(b: Blueprint) -> bool:
    """Tell whether the guest runs while it is moved."""
    return bool(b.request["live"])


def _names(b: Blueprint) -> dict[str, str]:
    """Return the copies' names by those of the files, nearest first."""
    if live(b):
        return {}
    return {name: ground_volume(b.server_id, depth) for depth, name in enumerate(b.ground)}


def copies(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return the copies that lie at the new host for a while, as artifacts."""
    return [(ArtifactKind.VOLUME, name) for name in _names(b).values()]


def missing(b: Blueprint) -> list[str]:
    """Return the copies that the disk there may still need, lowest first."""
    return [] if _alone(b) else list(reversed(_names(b).values()))


def _alone(b: Blueprint) -> bool:
    return bool(_names(b)) and bool(journal.noted(b.claim, FLATTEN).get(_ALONE))


def begin(b: Blueprint) -> None:
    """Forget that the disk there stands alone, if it has gone since: its next copy does not."""
    if _alone(b) and b.root_volume not in storage.volume_names(connect(b.host.uri), POOL):
        journal.note(b.claim, FLATTEN, **{_ALONE: False})


def here(b: Blueprint, name: str) -> str:
    """Return under which name the old host has a file of the new one."""
    return next((old for old, copy in _names(b).items() if copy == name), name)


def there(b: Blueprint, name: str) -> str:
    """Return what a file leans on at the new host that leans on `name` at the old one.

    Where nothing is copied of what a clone stands on it is the image.
    """
    names = {} if _alone(b) else _names(b)
    return names.get(name, b.disk_image.volume if name in b.ground else name)


def simulate(b: Blueprint) -> None:
    """Make the copies without content, each on the next: simulated hosts have none."""
    old, new = connect(b.there.host.uri), connect(b.host.uri)
    below = b.disk_image.volume
    for name in missing(b):
        size = storage.capacity(old, POOL, here(b, name))
        backing = storage.volume_path(new, POOL, below)
        storage.ensure_volume(new, POOL, name, size, backing_path=backing, replace=True)
        below = name


@step(FLATTEN, removes=copies)
def flatten_copy(b: Blueprint) -> str:
    """Have the copy of a linked clone's disk take over what it needs of its source's files.

    Killed halfway it leans on them still and has the same content. The old host has what it had.
    """
    if b.committed or not copies(b):
        return "it stands on its image"
    ensure(b, Rebase(b.root_volume, b.disk_image.volume), FLATTEN)
    journal.note(b.claim, FLATTEN, **{_ALONE: True})  # the next run needs no copies any more
    for _kind, name in copies(b):
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return f"{b.root_volume} stands on {b.disk_image.volume}"
