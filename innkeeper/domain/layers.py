"""The layers of a server's disk: what leans on what, and how one is taken out.

Each snapshot is a frozen qcow2 file on its parent's, the first ones on the image (or, in a linked
clone, on a frozen file of its source); on one of them lies the disk that the server writes to. So
the tree of snapshots is the tree of files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID


@dataclass(frozen=True)
class Layer:
    """A snapshot's frozen file; without a parent it leans on the image."""

    id: UUID
    parent_id: UUID | None
    volume: str


@dataclass(frozen=True)
class Rebase:
    """Make `volume`, which nobody has open, lean on `onto`; it takes over what it needs."""

    volume: str
    onto: str


@dataclass(frozen=True)
class Pull:
    """Make the running disk `volume` lean on `onto`: QEMU copies what it needs into it."""

    volume: str
    onto: str


@dataclass(frozen=True)
class Commit:
    """Have QEMU put the content of `upper` into `lower`; `above` leans on that afterwards."""

    upper: str
    lower: str
    above: str


@dataclass(frozen=True)
class Repoint:
    """Name `onto` as what `volume` leans on: it has the same content as the file before."""

    volume: str
    onto: str


Action = Rebase | Pull | Commit | Repoint


def descendants(identifier: UUID, parents: Mapping[UUID, UUID | None]) -> frozenset[UUID]:
    """Return the snapshots that lean on a snapshot, directly or not; `parents` is the tree."""
    found: set[UUID] = set()
    fresh = {identifier}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return frozenset(found)


@dataclass(frozen=True)
class Removal:
    """What takes a snapshot out: actions in order, the file to delete then, what is left."""

    actions: tuple[Action, ...]
    drop: str
    left: "Layers"


@dataclass(frozen=True)
class Layers:
    """All files of a server's disk: the image, frozen layers, and the one it writes to."""

    image: str
    frozen: tuple[Layer, ...]
    top: str
    top_parent: UUID | None

    def layer(self, identifier: UUID) -> Layer:
        """Return the layer of a snapshot; KeyError when it has none."""
        return {entry.id: entry for entry in self.frozen}[identifier]

    def file_of(self, identifier: UUID | None) -> str:
        """Return the file of a snapshot; of None the image's."""
        return self.image if identifier is None else self.layer(identifier).volume

    def children(self, identifier: UUID) -> tuple[Layer, ...]:
        """Return the snapshots that lean on a snapshot."""
        return tuple(entry for entry in self.frozen if entry.parent_id == identifier)

    def chain(self) -> tuple[Layer, ...]:
        """Return the snapshots beneath the disk that is written to, nearest first."""
        found, identifier = [], self.top_parent
        while identifier is not None:
            found.append(self.layer(identifier))
            identifier = found[-1].parent_id
        return tuple(found)

    def upward(self) -> tuple[Layer, ...]:
        """Return all frozen layers, each after the one that it leans on."""
        found: list[Layer] = []
        waiting = list(self.frozen)
        while waiting:
            placed = {None, *(entry.id for entry in found)}
            ready = [entry for entry in waiting if entry.parent_id in placed]
            if not ready:
                raise ValueError("The snapshots are no tree.")
            found += ready
            waiting = [entry for entry in waiting if entry not in ready]
        return tuple(found)

    def leanings(self) -> tuple[tuple[str, str], ...]:
        """Return every file of the disk, lowest first, with the one that it leans on."""
        frozen = [(entry.volume, self.file_of(entry.parent_id)) for entry in self.upward()]
        return (*frozen, (self.top, self.file_of(self.top_parent)))

    def beneath(self, volume: str) -> tuple[str, ...]:
        """Return the files beneath one of the disk's, nearest first; the image is the last."""
        lower, found = dict(self.leanings()), []
        while volume in lower:
            volume = lower[volume]
            found.append(volume)
        return tuple(found)

    def committed(self, identifier: UUID) -> Commit | None:
        """Return the commit that takes a snapshot out of a running disk, if it needs one.

        It is in the middle of the chain then: a frozen layer above it is open, so its content goes
        down into the snapshot's file, which stands for the upper snapshot from then on.
        """
        chain = self.chain()
        for place, upper in enumerate(chain):
            if upper.parent_id == identifier:
                above = chain[place - 1].volume if place else self.top
                return Commit(upper.volume, self.layer(identifier).volume, above)
        return None

    def removal(self, identifier: UUID, *, live: bool) -> Removal:
        """Return how to take a snapshot out; `live` when a running server has its disk open.

        Whatever order of them a kill leaves undone, each can be found done or not by looking at
        what a file leans on.
        """
        gone = self.layer(identifier)
        onto = self.file_of(gone.parent_id)
        commit = self.committed(identifier) if live else None
        open_ids = {entry.id for entry in self.chain()} if live else set()
        actions: list[Action] = [
            Rebase(entry.volume, onto)
            for entry in self.children(identifier)
            if entry.id not in open_ids
        ]
        if self.top_parent == identifier:
            actions.append(Pull(self.top, onto) if live else Rebase(self.top, onto))
        left = self._without(gone)
        if commit is None:
            return Removal(tuple(actions), gone.volume, left)
        upper = next(entry for entry in self.frozen if entry.volume == commit.upper)
        actions.append(commit)
        actions += [
            Repoint(entry.volume, commit.lower)
            for entry in self.children(upper.id)
            if entry.id not in open_ids
        ]
        frozen = tuple(
            replace(entry, volume=commit.lower) if entry.id == upper.id else entry
            for entry in left.frozen
        )
        return Removal(tuple(actions), commit.upper, replace(left, frozen=frozen))

    def _without(self, gone: Layer) -> "Layers":
        frozen = tuple(
            replace(entry, parent_id=gone.parent_id) if entry.parent_id == gone.id else entry
            for entry in self.frozen
            if entry.id != gone.id
        )
        top_parent = gone.parent_id if self.top_parent == gone.id else self.top_parent
        return replace(self, frozen=frozen, top_parent=top_parent)
