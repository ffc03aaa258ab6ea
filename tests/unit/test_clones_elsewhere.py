"""Linked clones that leave their host: full copies from then on, and their source free."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from conftest import SHA256, Catalogue
from disk_life import plan
from journaled import artifacts, carried
from two_hosts import Life, used

from innkeeper.db.models import Disk, Operation, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.naming import POOL, ground_volume, image_volume
from innkeeper.domain.specs import CloneRequest, MigrateRequest, SnapshotRequest, UnshelveRequest
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.hypervisor import storage
from innkeeper.services import lineage, reservations, servers, survey
from tasks import ground

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

IMAGE = image_volume(SHA256)
COLD = MigrateRequest(allow_power_cycle=True)


class Twin(Life):
    """A linked clone of a linked clone, and what is done to it."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(catalogue)
        self.sources = [self.server_id]
        for name in ("middle", "twin"):
            self.do(Verb.CLONE, CloneRequest(name=name))
            found = next(one.id for one in servers.page().items if one.name == name)
            self.sources.insert(0, found)
            self.server_id = found
        self.sources.pop(0)
        with transaction() as session:
            for row in session.query(Snapshot):
                row.size_bytes = 300 << 20

    @property
    def base(self) -> UUID | None:
        with transaction() as session:
            return (
                session.query(Disk).filter(Disk.server_id == self.server_id).one().base_snapshot_id
            )

    def leans(self, host: str) -> str | None:
        """Return what the root disk leans on."""
        below = storage.leans_on(self.conn(host), POOL, f"{self.server_id}-root.qcow2")
        return below.name if below else None

    def stands_alone(self, host: str) -> None:
        assert (self.view.host, self.base) == (host, None)
        assert self.leans(host) == IMAGE
        assert [name for name in self.here(host)[1] if "ground" in name] == []
        assert survey.audit() == []
        with transaction() as session:
            assert lineage.clones_of(session, self.sources[0]) == []
        assert set(artifacts().values()) == {"present"}


@pytest.fixture
def life(catalogue: Catalogue) -> Twin:
    return Twin(catalogue)


@sqlite
def test_what_it_stands_on_is_found_to_the_bottom(life: Twin) -> None:
    with transaction() as session:
        found = [layer.server_id for layer in lineage.ground(session, life.server_id)]
        assert found == life.sources
        assert lineage.ground(session, life.sources[-1]) == []
        assert lineage.sources_of(session, {life.server_id}) == {life.sources[0]}


@sqlite
def test_it_moves_as_a_full_copy_and_room_is_held_for_that(life: Twin) -> None:
    seen = plan(Verb.MIGRATE, life.server_id, COLD)
    assert [(one.subject, one.after) for one in seen.changes][1:] == [("root disk", "its own")]
    assert any("shares with middle, up to 600 MiB" in told for told in seen.warnings)
    before = plan(Verb.STOP, life.server_id).quota
    life.catalogue.set_hosts("beta", disk_gib=1)
    with pytest.raises(NoHostFits, match="2 GiB of disk asked, 1 GiB free"):
        life.ask(Verb.MIGRATE, COLD)
    life.catalogue.set_hosts("beta", disk_gib=2)
    view = life.ask(Verb.MIGRATE, COLD)
    assert used("beta")[2] == 2
    with transaction() as session:
        noted = session.get_one(Operation, view.id).request
    assert noted[reservations.GROUND_BYTES] == 600 << 20
    assert life.base is not None
    carried(view)
    life.stands_alone("beta")
    assert used("beta")[2] == 1
    assert plan(Verb.STOP, life.server_id).quota == before


@sqlite
@pytest.mark.parametrize("failing", ["carry-snapshots", "carry-disk", "flatten-copy", "forward"])
def test_undone_it_is_a_linked_clone_as_before(life: Twin, failing: str) -> None:
    before, base = life.here("alpha"), life.base
    life.do(Verb.MIGRATE, COLD, failing=failing)
    assert (life.view.host, life.base, life.here("alpha")) == ("alpha", base, before)
    assert life.leans("alpha") != IMAGE
    assert life.here("beta")[1] == []
    assert survey.audit() == []


@sqlite
def test_it_rests_on_the_shelf_as_a_full_copy(life: Twin) -> None:
    seen = plan(Verb.SHELVE, life.server_id)
    assert [(one.subject, one.after) for one in seen.changes][1:] == [("root disk", "its own")]
    base = life.base
    life.do(Verb.SHELVE, failing="shelve-data-disks")
    assert life.base == base
    life.shelve()
    assert (life.base, life.file.base) == (None, IMAGE)
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"))
    life.stands_alone("beta")


@sqlite
def test_its_own_snapshots_are_in_its_way(life: Twin) -> None:
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="before"))
    for verb in (Verb.MIGRATE, Verb.SHELVE):
        with pytest.raises(Conflict, match=r"its snapshots \(before\) stand on its source's disk"):
            life.ask(verb, COLD if verb is Verb.MIGRATE else None)


class Roots:
    """A clone that is moved while it is off: what its steps note, and where its files are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: dict[str, Any] = {}
        self.there = ["root"]
        patch = monkeypatch.setattr
        patch(ground, "connect", lambda uri: uri)
        patch(ground.storage, "volume_names", lambda *_: self.there)
        patch(ground.storage, "delete_volume", lambda *_: None)
        patch(ground, "ensure", lambda *_: None)
        patch(ground.journal, "noted", lambda *_: self.notes)
        patch(ground.journal, "note", lambda *_, **data: self.notes.update(data))

    def blueprint(self, *, live: bool = False) -> Any:
        return SimpleNamespace(
            server_id=UUID(int=1),
            request={"live": live},
            ground=("near", "far"),
            disk_image=SimpleNamespace(volume="image"),
            root_volume="root",
            host=SimpleNamespace(uri="new"),
            claim=None,
            committed=False,
        )


def test_what_is_copied_of_its_sources_and_what_leans_on_what(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roots, near, far = Roots(monkeypatch), *(ground_volume(UUID(int=1), n) for n in (0, 1))
    b = roots.blueprint()
    assert ground.missing(b) == [far, near], "lowest first"
    assert [ground.there(b, one) for one in ("near", "far", "image")] == [near, far, "image"]
    assert [ground.here(b, one) for one in (near, far, "root")] == ["near", "far", "root"]
    live = roots.blueprint(live=True)
    assert (ground.copies(live), ground.missing(live)) == ([], [])
    assert ground.there(live, "near") == "image", "QEMU sends all that is above"


def test_a_copy_that_was_flattened_and_is_gone_is_made_on_its_ground_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    roots = Roots(monkeypatch)
    b = roots.blueprint()
    ground.flatten_copy.effect(b)
    ground.begin(b)
    assert (ground.missing(b), ground.there(b, "near")) == ([], "image")
    assert len(ground.copies(b)) == 2, "their rows are closed again"
    roots.there.clear()
    ground.begin(b)
    assert len(ground.missing(b)) == 2
    assert ground.there(b, "near") == ground_volume(b.server_id, 0)
