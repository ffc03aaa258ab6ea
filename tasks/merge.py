"""Taking a snapshot out: those who lean on its file get what they need of it, then it goes."""

from innkeeper.domain.layers import Action, Commit, Layers, Pull, Removal, Repoint
from innkeeper.domain.naming import POOL
from innkeeper.domain.steps import ArtifactKind
from innkeeper.errors import PermanentError, TransientError
from innkeeper.host import layers
from innkeeper.host.channel import open_channel
from innkeeper.hypervisor import blockjob, snapshot, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import PoolFull
from innkeeper.services import journal, snapshots
from innkeeper.services.blueprint import Blueprint
from tasks.progress import Progress
from tasks.step import step

SCARCE_BYTES = 64 << 20


class MergeUnfinished(TransientError):
    """A file still leans on the snapshot's after it was merged."""


class SnapshotInUse(PermanentError):
    """Something that the database does not know leans on the snapshot's file."""


@step("merge")
def merge_snapshot(b: Blueprint) -> str:
    """Make everything that leans on the snapshot's file do without it."""
    removal = _removal(b)
    if removal is None:
        return "nothing leans on it"
    if any(isinstance(action, Commit) for action in removal.actions):
        journal.note(b.claim, "merge", commits=True)  # from here on its content is another's
    for action in removal.actions:
        ensure(b, action, "merge")
    return ", ".join(type(action).__name__.lower() for action in removal.actions) or "a leaf"


@merge_snapshot.undone_by
def weigh_again(b: Blueprint) -> str:
    """Leave files as they are, each is right, but note what they take: some may have grown."""
    snapshots.weigh(b.claim, _sizes(b, b.layers))
    return "what was merged stays"


def _sizes(b: Blueprint, tree: Layers) -> dict[str, int]:
    names = {layer.volume for layer in tree.frozen}
    names |= {s.memory_volume for s in b.snapshots if s.memory_volume}
    return storage.allocated(connect(b.host.uri), POOL, names)


def _removal(b: Blueprint) -> Removal | None:
    """Return what is to be done; what a dead run has done already decides how the rest is done."""
    if b.subject is None or b.subject.volume is None:
        return None
    tree = b.layers
    commit = tree.committed(b.subject.id)
    if commit and _leans(b, commit.above) == commit.lower:
        live = True  # committed, whether or not the server still runs
    elif commit and _leans(b, commit.upper) != commit.lower:
        live = False  # rebased while it was off, whether or not it runs by now
    else:
        live = snapshot.is_active(connect(b.host.uri), b.server_id)
    return tree.removal(b.subject.id, live=live)


def _leans(b: Blueprint, name: str) -> str | None:
    path = storage.leans_on(connect(b.host.uri), POOL, name)
    return path.name if path else None


def _target(action: Action) -> tuple[str, str]:
    """Return which file has to lean on which one after an action."""
    if isinstance(action, Commit):
        return action.above, action.lower
    return action.volume, action.onto


def ensure(b: Blueprint, action: Action, step_name: str) -> None:
    """See that an action is done, by whom can do it; progress is told in a step of that name.

    Raises:
        PoolFull: there is no space for what has to be copied.
        MergeUnfinished: it was done and had no effect.
    """
    volume, onto = _target(action)
    if _leans(b, volume) == onto:
        return
    if b.host.simulated:
        _pretend(b, volume, onto)
    elif isinstance(action, Commit | Pull):
        _have_qemu_merge(b, action, step_name)
    else:
        _merge_file(b, action)
    if (found := _leans(b, volume)) != onto:
        free = storage.pool_capacity(connect(b.host.uri), POOL).free_bytes
        if free < SCARCE_BYTES:
            raise PoolFull(
                f"The pool on {b.host.name} has no space for merging: free some, then ask again; "
                "the server and its other snapshots are intact."
            )
        raise MergeUnfinished(f"{volume} leans on {found}, not on {onto}.")


def _have_qemu_merge(b: Blueprint, action: Commit | Pull, step_name: str) -> None:
    connection = connect(b.host.uri)
    tell = Progress(b.claim, step_name).now_and_then("merging")
    if isinstance(action, Pull):
        onto = storage.volume_path(connection, POOL, action.onto)
        blockjob.pull(connection, b.server_id, onto, tell)
        return
    upper = storage.volume_path(connection, POOL, action.upper)
    lower = storage.volume_path(connection, POOL, action.lower)
    blockjob.commit(connection, b.server_id, upper, lower, tell)


def _merge_file(b: Blueprint, action: Action) -> None:
    volume, onto = _target(action)
    connection, channel = connect(b.host.uri), open_channel(b.host.channel)
    change = layers.repoint if isinstance(action, Repoint) else layers.rebase
    change(
        channel,
        storage.volume_path(connection, POOL, volume),
        storage.volume_path(connection, POOL, onto),
    )


def _pretend(b: Blueprint, volume: str, onto: str) -> None:
    """Let a simulated file, which has no content, lean on another one."""
    connection = connect(b.host.uri)
    backing = storage.volume_path(connection, POOL, onto)
    storage.ensure_volume(
        connection, POOL, volume, b.disk_bytes, backing_path=backing, replace=True
    )


@step("forget-snapshot")
def forget_snapshot(b: Blueprint) -> str:
    """Take the snapshot out of the database's tree: nothing leans on it any more."""
    if b.subject is None:
        return "done before"
    removal = _removal(b)
    dropped = [(ArtifactKind.VOLUME, removal.drop)] if removal else []
    if b.subject.memory_volume:
        dropped.append((ArtifactKind.SNAPSHOT, b.subject.memory_volume))
    left = removal.left if removal else b.layers
    snapshots.forget(b.claim, left, _sizes(b, left), dropped)
    return b.subject.name


def _dropped(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind(kind), name) for kind, name in b.request.get("dropped", ())]


@step("remove-layer", removes=_dropped)
def remove_layer(b: Blueprint) -> str:
    """Delete the files that nothing leans on any more."""
    for kind, name in _dropped(b):
        _require_unused(b, name) if kind is ArtifactKind.VOLUME else None
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return ", ".join(name for _kind, name in _dropped(b)) or "nothing was there"


def _require_unused(b: Blueprint, name: str) -> None:
    """Refuse to delete what another file leans on, whatever the database says."""
    users = storage.leaning(connect(b.host.uri), POOL, name)
    if users:
        raise SnapshotInUse(
            f"{', '.join(users)} on {b.host.name} still lean on {name}: it is kept. Report this."
        )


def all_files(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    """Return all files of a server's snapshots, as artifacts."""
    files = [(ArtifactKind.VOLUME, s.volume) for s in b.snapshots if s.volume]
    return files + [
        (ArtifactKind.SNAPSHOT, s.memory_volume) for s in b.snapshots if s.memory_volume
    ]


@step("remove-snapshots", removes=all_files, on_host=True)
def remove_snapshots(b: Blueprint) -> str:
    """Delete all snapshots of a server that is going to be deleted, or that has left the host."""
    for _kind, name in all_files(b):
        storage.delete_volume(connect(b.host.uri), POOL, name)
    return f"{len(b.snapshots)} snapshots"
