"""Taking a snapshot out of a tree of files: nobody else may notice, wherever a kill falls."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.layers import (
    Action,
    Commit,
    Layer,
    Layers,
    Pull,
    Rebase,
    Repoint,
    descendants,
)

BLOCKS = 6


@dataclass
class Disks:
    """Files with content, as qcow2 keeps it: blocks of their own, the rest is the backing's."""

    blocks: dict[str, dict[int, int]] = field(default_factory=lambda: {"image": {}})
    backing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, backing: str) -> None:
        self.blocks[name], self.backing[name] = {}, backing

    def drop(self, name: str) -> None:
        assert name not in self.backing.values(), f"something leans on {name}"
        del self.blocks[name], self.backing[name]

    def read(self, name: str, block: int) -> int:
        while block not in self.blocks[name]:
            if name not in self.backing:
                return 0
            name = self.backing[name]
        return self.blocks[name][block]

    def content(self, name: str) -> list[int]:
        return [self.read(name, block) for block in range(BLOCKS)]

    def act(self, action: Action, *, whole: bool = True) -> None:
        """Do it, or die in the middle of it: half the blocks are copied, no header is changed."""
        if isinstance(action, Commit):
            assert self.backing[action.upper] == action.lower
            copied = list(self.blocks[action.upper].items())
            self.blocks[action.lower].update(copied if whole else copied[::2])
            if whole:
                assert self.backing[action.above] == action.upper
                self.backing[action.above] = action.lower
            return
        if isinstance(action, Rebase | Pull):
            kept = self.content(action.volume)
            below = self.content(action.onto)
            differing = [block for block in range(BLOCKS) if kept[block] != below[block]]
            for block in differing if whole else differing[::2]:
                self.blocks[action.volume][block] = kept[block]
        if whole:
            self.backing[action.volume] = action.onto

    def done(self, action: Action) -> bool:
        if isinstance(action, Commit):
            return self.backing[action.above] == action.lower
        return self.backing[action.volume] == action.onto


@dataclass
class Grown:
    """A server's disk after some life, and the content that each snapshot has to keep."""

    disks: Disks
    layers: Layers
    kept: dict[UUID, list[int]]


@st.composite
def grown(draw: st.DrawFn) -> Grown:
    disks = Disks()
    disks.blocks["image"] = {block: 1 + block for block in range(0, BLOCKS, 2)}
    disks.add("root", "image")
    layers, kept = Layers("image", (), "root", None), {}
    for step in range(draw(st.integers(1, 14))):
        match draw(st.sampled_from(["write", "snapshot", "snapshot", "revert"])):
            case "write":
                disks.blocks[layers.top][draw(st.integers(0, BLOCKS - 1))] = 100 + step
            case "snapshot":
                taken = Layer(UUID(int=step + 1), layers.top_parent, layers.top)
                kept[taken.id] = disks.content(layers.top)
                disks.add(f"file-{step}", layers.top)
                frozen = (*layers.frozen, taken)
                layers = Layers("image", frozen, f"file-{step}", taken.id)
            case _ if layers.frozen:
                to = draw(st.sampled_from(layers.frozen))
                disks.drop(layers.top)
                disks.add(f"file-{step}", to.volume)
                layers = Layers("image", layers.frozen, f"file-{step}", to.id)
    return Grown(disks, layers, kept)


def unharmed(found: Grown, layers: Layers, top: list[int]) -> None:
    assert found.disks.content(layers.top) == top
    for layer in layers.frozen:
        assert found.disks.content(layer.volume) == found.kept[layer.id]
        assert found.disks.backing[layer.volume] == layers.file_of(layer.parent_id)
    assert found.disks.backing[layers.top] == layers.file_of(layers.top_parent)


@given(found=grown(), live=st.lists(st.booleans(), min_size=20), data=st.data())
def test_all_snapshots_can_go_in_any_order_and_nobody_else_notices(
    found: Grown, live: list[bool], data: st.DataObject
) -> None:
    layers, top = found.layers, found.disks.content(found.layers.top)
    running: Iterator[bool] = iter(live)
    while layers.frozen:
        gone = data.draw(st.sampled_from(layers.frozen)).id
        removal = layers.removal(gone, live=next(running))
        for action in removal.actions:
            if data.draw(st.booleans()):
                found.disks.act(action, whole=False)  # killed, and begun again
            if not found.disks.done(action):
                found.disks.act(action)
        found.disks.drop(removal.drop)
        layers = removal.left
        assert gone not in {layer.id for layer in layers.frozen}
        assert removal.drop not in {layers.top, *(layer.volume for layer in layers.frozen)}
        unharmed(found, layers, top)
    assert found.disks.backing[layers.top] == "image"


@given(grown())
def test_the_tree_is_as_it_grew(found: Grown) -> None:
    unharmed(found, found.layers, found.disks.content(found.layers.top))
    chain = found.layers.chain()
    assert [layer.id for layer in chain][:1] == (
        [found.layers.top_parent] if found.layers.top_parent else []
    )
    for layer in found.layers.frozen:
        assert layer not in found.layers.children(layer.id)


A, B, C, D = (UUID(int=number) for number in (1, 2, 3, 4))
TREE = Layers(
    "image",
    (Layer(A, None, "a"), Layer(B, A, "b"), Layer(C, A, "c"), Layer(D, B, "d")),
    "top",
    B,
)


def test_an_open_layer_goes_down_and_its_branches_follow() -> None:
    removal = TREE.removal(A, live=True)
    assert removal.actions == (Rebase("c", "image"), Commit("b", "a", "top"), Repoint("d", "a"))
    assert removal.drop == "b"
    assert removal.left.layer(B) == Layer(B, None, "a")


def test_a_running_disk_pulls_and_a_stopped_one_is_rebased() -> None:
    assert TREE.removal(B, live=True).actions == (Rebase("d", "a"), Pull("top", "a"))
    assert TREE.removal(B, live=False).actions == (Rebase("d", "a"), Rebase("top", "a"))
    assert TREE.removal(D, live=True).actions == ()
    assert TREE.removal(D, live=True).drop == "d"


@given(found=grown(), live=st.booleans(), data=st.data())
def test_what_is_written_or_replaced_is_the_snapshot_or_leans_on_it(
    found: Grown, live: bool, data: st.DataObject
) -> None:
    """So a clone's ground is safe as long as no ancestor of it is taken out."""
    if not found.layers.frozen:
        return
    parents = {layer.id: layer.parent_id for layer in found.layers.frozen}
    gone = data.draw(st.sampled_from(found.layers.frozen)).id
    touched = descendants(gone, parents) | {gone}
    before = {
        layer.volume: found.disks.content(layer.volume)
        for layer in found.layers.frozen
        if layer.id not in touched
    }
    removal = found.layers.removal(gone, live=live)
    headers = dict(found.disks.backing)
    for action in removal.actions:
        found.disks.act(action)
    found.disks.drop(removal.drop)
    for volume, content in before.items():
        assert found.disks.content(volume) == content
        assert found.disks.backing[volume] == headers[volume]


def test_descendants() -> None:
    parents = {layer.id: layer.parent_id for layer in TREE.frozen}
    assert descendants(A, parents) == {B, C, D}
    assert descendants(B, parents) == {D}
    assert descendants(D, parents) == frozenset()


@given(found=grown(), data=st.data())
def test_every_file_comes_after_the_one_that_it_leans_on(found: Grown, data: st.DataObject) -> None:
    shuffled = replace(found.layers, frozen=tuple(data.draw(st.permutations(found.layers.frozen))))
    there = [found.layers.image]
    for name, below in shuffled.leanings():
        assert below in there
        assert found.disks.backing[name] == below
        there.append(name)
    assert sorted(there) == sorted(found.disks.blocks)


def test_what_is_no_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="no tree"):
        Layers("image", (Layer(A, B, "a"), Layer(B, A, "b")), "top", B).upward()


def test_an_unknown_snapshot_has_no_layer() -> None:
    with pytest.raises(KeyError):
        TREE.removal(UUID(int=9), live=False)
