"""The fine print of a server's memory: what it means, what it needs, and that pages are counted."""

from dataclasses import replace
from typing import Any

import pytest
from api_client import Api, problem
from conftest import Catalogue, Race
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stepwise import Life

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain import backing, tuning
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.offer import Held, Offer, Pages, page_shortage
from innkeeper.domain.planning import Effect
from innkeeper.domain.resizing import Room, Shape, resize
from innkeeper.domain.specs import CloneRequest, ResizeRequest, ServerRequest
from innkeeper.domain.tuning import CpuTuning
from innkeeper.domain.wanted import ResourcesRequest
from innkeeper.errors import Conflict, InvalidRequest, NoHostFits
from innkeeper.hypervisor import memory as adapter
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services import accept, offers, pending, resources, servers
from innkeeper.services.blueprint import HostBlueprint
from innkeeper.services.planning import Foreseen, Foresight

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
BEFORE = Shape(2, 1024, 10, 8, 2048)
SAME = BEFORE.demand
ROOM = Room(16, memory_headroom=2.0)
PAGES = {"2": Pages(200, 200)}
ABLE = Offer(tuple(range(8)), None, (0,), PAGES, ("huge pages of 2 MiB",), on_nodes={"0": PAGES})
CYCLE: dict[str, Any] = {"allow_power_cycle": True}
ME: dict[str, Any] = {"project_id": None, "actor": "me"}


def merged(before: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return backing.merged(before, MemoryTuning(**fields))


def test_what_is_left_out_stays_and_the_usual_gives_back() -> None:
    before = {"balloon": False, "hugepages": 2}
    assert merged(before) == before
    assert merged(before, balloon=True, nodes="1,0") == {"hugepages": 2, "nodes": "0-1"}
    there = {"nodes": "0", "mode": "preferred"}
    assert merged(there, nodes="") == {}
    assert merged({}, mode="preferred") == {"mode": "preferred"}, "which is refused, later"
    assert merged(before, balloon=True, hugepages=0, mode="strict", soft_limit=0) == {}
    assert set(MemoryTuning.model_fields) == set(backing.NOTHING)
    assert set(CpuTuning.model_fields) == set(tuning.NOTHING)
    with pytest.raises(ValidationError, match="set looks like"):
        MemoryTuning(nodes="one")


@pytest.mark.parametrize(
    ("fine", "why"),
    [
        ({"hugepages": 1024}, "500 MiB of memory are no whole huge pages of 1024 MiB.* 1024 MiB"),
        ({"mode": "preferred"}, "name nodes, too"),
        ({"mode": "preferred", "nodes": "0-1"}, "One node can be preferred"),
        ({"soft_limit": 501}, "limits nothing"),
    ],
)
def test_what_does_not_fit_together(fine: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        backing.require_sound(fine, 500)
    backing.require_sound({"hugepages": 2, "nodes": "0", "mode": "preferred"}, 500)


def test_what_a_running_guest_was_started_with_needs_a_power_cycle() -> None:
    fine = {"hugepages": 2, "nodes": "0", "balloon": False, "soft_limit": 900}
    way = resize(BEFORE, SAME, ROOM, runs=True, memory=fine)
    assert set(way.obstacles) == set(backing.STARTED_WITH)
    assert [(c.effect, c.subject, c.before, c.after) for c in way.changes] == [
        (Effect.POWER_CYCLE, "huge pages", "none", "of 2 MiB"),
        (Effect.POWER_CYCLE, "memory NUMA nodes", "any", "0 (strict)"),
        (Effect.POWER_CYCLE, "memory balloon", "on", "off"),
        (Effect.LIVE, "memory soft limit", "none", "900 MiB"),
    ]
    assert (way.after.pages, way.after.max_memory_mib) == ({"2": 512}, 1024), "and no room"
    off = resize(BEFORE, SAME, ROOM, runs=False, memory=fine)
    assert (off.obstacles, off.after) == ({}, way.after)
    live = resize(BEFORE, SAME, ROOM, runs=True, memory={"soft_limit": 900})
    assert (live.obstacles, live.after.max_memory_mib) == ({}, 2048)
    with pytest.raises(InvalidRequest, match="this size already"):
        resize(way.after, SAME, ROOM, runs=True, memory=fine)


@pytest.mark.parametrize("fine", [{"hugepages": 2}, {"balloon": False}])
@pytest.mark.parametrize("memory_mib", [512, 1536])
def test_memory_that_is_fixed_changes_with_a_power_cycle(
    fine: dict[str, Any], memory_mib: int
) -> None:
    there = ROOM.shape(SAME, {}, fine)
    wanted = replace(SAME, memory_mib=memory_mib)
    assert set(resize(there, wanted, ROOM, runs=True).obstacles) == {"memory"}
    assert resize(BEFORE, replace(SAME, memory_mib=1536), ROOM, runs=True).obstacles == {}


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=12))
def test_no_page_is_given_twice(total: int, asked: list[tuple[int, bool]]) -> None:
    """Whoever was accepted can be started, whoever else is off or on, with all others."""
    used, idle = 0, 0
    for count, off in asked:
        told = Offer(pages={"2": Pages(total, total - used)})
        held = Held({"2": used}, {"2": idle})
        if not page_shortage(told, {"2": count}, held):
            used, idle = (used, idle + count) if off else (used + count, idle)
        else:
            assert used + idle + count > total, "it would have fitted"
        assert used + idle <= total


def test_what_strangers_use_is_not_free_and_ones_own_is() -> None:
    told = Offer(pages={"2": Pages(10, 4)})
    (said,) = page_shortage(told, {"2": 5}, Held())
    assert said.startswith("5 huge pages of 2 MiB asked, 4 of 10 free: set more aside")
    assert "hugepages-2048kB/nr_hugepages" in said
    assert page_shortage(told, {"2": 5}, Held(own={"2": 6})) == []
    assert page_shortage(told, {"2": 4}, Held(idle={"2": 1})) != []


class Backed(Life):
    """A server on a simulated host whose memory is tuned."""

    def tune(self, *, failing: str = "", vcpus: int | None = None, **fine: Any) -> Phase:
        body = ResizeRequest(memory=MemoryTuning(**fine), vcpus=vcpus, **CYCLE)
        return self.do(Verb.RESIZE, body, failing=failing).phase

    def ask(self, **fields: Any) -> None:
        body = ResizeRequest(**(CYCLE | fields))
        accept.request(Verb.RESIZE, self.server_id, body, **ME)

    @property
    def document(self) -> Any:
        domain = self.conn.lookupByUUIDString(str(self.server_id))
        return parse(domain.XMLDesc(2))

    @property
    def pages(self) -> dict[str, Any]:
        with transaction() as session:
            return session.get_one(Server, self.server_id).pages


@pytest.fixture
def life(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Backed:
    monkeypatch.setattr(offers, "_told", lambda *_: ABLE)
    return Backed(catalogue)


@sqlite
def test_it_is_defined_kept_and_given_back(life: Backed) -> None:
    life.tune(hugepages=2, nodes="0", balloon=False, soft_limit=100)
    kept = {"hugepages": 2, "nodes": "0", "balloon": False, "soft_limit": 100}
    assert servers.get(life.server_id).memory == kept
    assert life.pages == {"2": 96}
    life.do(Verb.REBUILD)
    document = life.document
    page = document.find("memoryBacking/hugepages/page")
    assert (page.get("size"), page.get("unit")) == ("2048", "KiB")
    assert document.find("numatune/memory").get("nodeset") == "0"
    assert document.find("devices/memballoon").get("model") == "none"
    assert document.find("memtune/soft_limit").text == str(100 * 1024)
    life.tune(hugepages=0, nodes="", balloon=True, soft_limit=0)
    assert (servers.get(life.server_id).memory, life.pages) == ({}, {})
    assert life.document.find("memoryBacking/hugepages") is None
    assert life.document.find("devices/memballoon").get("model") == "virtio"


@sqlite
@pytest.mark.parametrize("failing", ["reshape", "tune-memory", "turn-on"])
def test_a_failure_gives_the_pages_back(life: Backed, failing: str) -> None:
    assert life.tune(hugepages=2, failing=failing) is Phase.FAILED
    assert (servers.get(life.server_id).memory, life.pages) == ({}, {})
    life.tune(hugepages=2)
    life.do(Verb.RESIZE, ResizeRequest(memory_mib=256, **CYCLE), failing=failing)
    assert life.pages == {"2": 96}


@sqlite
def test_an_undo_gives_the_running_guest_its_limit_back(
    life: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.tune(soft_limit=150)
    limits: list[int | None] = []
    monkeypatch.setattr(HostBlueprint, "simulated", False)
    monkeypatch.setattr(adapter, "limit", lambda _conn, _id, wanted: limits.append(wanted))
    assert life.tune(soft_limit=90, failing="tune-memory") is Phase.FAILED
    assert limits == [90, 150]


def test_the_last_pages_are_given_once(life: Backed, race: Race) -> None:
    others = [life.of(life.catalogue.create(name).server_id) for name in ("b", "c", "d")]
    for one in others:
        with transaction() as session:
            there = session.get_one(Server, one.server_id)
            there.status, there.operation_id = "active", None
            there.host_id = session.get_one(Server, life.server_id).host_id
    everybody = [life, *others]
    fine = MemoryTuning(hugepages=2)
    ended = race(4, lambda number: everybody[number].ask(memory=fine))
    refused = [one for one in ended if one is not None]
    assert [type(one) for one in refused] == [NoHostFits, NoHostFits], refused
    assert "96 huge pages of 2 MiB asked, 8 of 200 free" in str(refused[0])


@sqlite
def test_what_waits_and_what_is_off_holds_its_pages(
    life: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = ResizeRequest(memory=MemoryTuning(hugepages=2), defer=True)
    assert accept.request(Verb.RESIZE, life.server_id, body, **ME).deferred
    assert (servers.get(life.server_id).memory, life.pages) == ({}, {"2": 96})
    pending.cancel(life.server_id, project_id=None, actor="me")
    assert life.pages == {}
    assert accept.request(Verb.RESIZE, life.server_id, body, **ME).deferred
    life.carry(accept.request(Verb.REBOOT, life.server_id, **ME))
    assert (servers.get(life.server_id).memory, life.pages) == ({"hugepages": 2}, {"2": 96})
    life.do(Verb.STOP)
    wanted = ServerRequest(name="next", image="debian", plan="tiny", memory=fine(hugepages=2))
    few = replace(ABLE, pages={"2": Pages(150, 150)})
    monkeypatch.setattr(offers, "_told", lambda *_: few)
    with transaction() as session:
        session.query(Host).filter(Host.name != servers_host(life)).update({Host.enabled: False})
    with pytest.raises(NoHostFits, match="96 huge pages of 2 MiB asked, 54 of 150 free"):
        accept.create_server(wanted, project_id=life.catalogue.project_id, actor="me")
    life.do(Verb.SHELVE)
    accept.create_server(wanted, project_id=life.catalogue.project_id, actor="me")
    with pytest.raises(NoHostFits, match="96 huge pages of 2 MiB asked, 54 of 150 free"):
        accept.request(Verb.UNSHELVE, life.server_id, **ME)


def fine(**fields: Any) -> MemoryTuning:
    return MemoryTuning(**fields)


def servers_host(life: Life) -> str | None:
    return servers.get(life.server_id).host


@sqlite
def test_a_new_server_comes_where_it_can_be(life: Backed, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Offer((0, 1), ("maximum",), (0,), {"2": Pages(0, 0)})
    monkeypatch.setattr(offers, "_told", lambda uri, *_: ABLE if "beta" in uri else bare)
    wanted: dict[str, Any] = {
        "cpu": CpuTuning(model="qemu64", pin="5"),
        "memory": fine(hugepages=2, balloon=False),
    }
    view = life.catalogue.create("big", **wanted)
    there = servers.get(view.server_id)
    assert (there.host, there.cpu) == ("beta", {"model": "qemu64", "pin": "5"})
    assert there.memory == {"hugepages": 2, "balloon": False}
    opinions = {o["host"]: o["refused"] for o in (view.verdict or {})["hosts"]}
    assert opinions["beta"] is None
    assert "no CPU 5 that is online, but 0-1" in opinions["alpha"]
    assert "model 'qemu64', but maximum" in opinions["alpha"]
    life.carry(view)
    big = life.of(view.server_id)
    assert big.pages == {"2": 96}
    assert big.document.find("memoryBacking/hugepages/page") is not None
    twin = CloneRequest(name="twin", memory=fine(hugepages=2))
    clone = accept.request(Verb.CLONE, big.server_id, twin, **ME)
    assert life.of(clone.server_id).pages == {"2": 96}
    with pytest.raises(Conflict):
        accept.request(Verb.CLONE, big.server_id, twin.model_copy(update={"name": "x"}), **ME)
    life.carry(clone)
    with pytest.raises(NoHostFits, match="beta: 96 huge pages of 2 MiB asked, 8 of 200 free"):
        accept.request(Verb.CLONE, big.server_id, twin.model_copy(update={"name": "x"}), **ME)
    with pytest.raises(InvalidRequest, match="not both"):
        life.catalogue.create("odd", cpu=CpuTuning(pin="0", nodes="0"))


@sqlite
def test_what_only_a_guest_can_prove_is_proved_once(
    life: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict[str, Any]] = []
    refusals: list[str | None] = ["no hugetlbfs", None]

    def obstacle(_conn: Any, _type: str, part: dict[str, Any]) -> str | None:
        tried.append(part)
        return refusals.pop(0)

    monkeypatch.setattr(offers, "_told", lambda *_: replace(ABLE, proved=()))
    monkeypatch.setattr(adapter, "obstacle", obstacle)
    with pytest.raises(InvalidRequest, match=r"cannot give huge pages of 2 MiB \(no hugetlbfs\)"):
        life.tune(hugepages=2)
    life.tune(hugepages=2)
    life.tune(hugepages=2, balloon=False)
    assert tried == [{"hugepages": 2}] * 2
    with pytest.raises(InvalidRequest, match="no huge pages of 1024 MiB: it knows 2 MiB"):
        life.do(Verb.RESIZE, ResizeRequest(memory_mib=1024, memory=fine(hugepages=1024), **CYCLE))


@sqlite
def test_all_of_it_is_wanted_at_once(life: Backed) -> None:
    asked = ResourcesRequest(
        vcpus=1, memory_mib=192, disk_gib=1, memory=fine(soft_limit=99, nodes="0"), **CYCLE
    )
    me: dict[str, Any] = {**ME, "role": "admin"}
    view = resources.put(life.server_id, asked, **me)
    assert view
    life.carry(view)
    resources.pursue(life.server_id)
    assert servers.get(life.server_id).memory == {"soft_limit": 99, "nodes": "0"}
    assert resources.put(life.server_id, asked, **me) is None, "it has all of it"
    less = asked.model_copy(update={"memory": fine()})
    view = resources.put(life.server_id, less, **me)
    assert view
    life.carry(view)
    assert servers.get(life.server_id).memory == {}


@sqlite
def test_a_plan_says_it_and_tenants_may_not(api: Api, life: Backed) -> None:
    body = ResizeRequest(memory=fine(hugepages=2))
    with pytest.raises(Foreseen) as seen:
        accept.request(Verb.RESIZE, life.server_id, body, foresight=Foresight(dry_run=True), **ME)
    assert [(c.effect, c.after) for c in seen.value.plan.changes] == [
        (Effect.POWER_CYCLE, "of 2 MiB")
    ]
    assert any("huge pages: a running guest keeps" in one for one in seen.value.plan.warnings)
    assert life.pages == {}
    path = f"/servers/{life.server_id}/actions/resize?dry_run=true"
    for asked in ({"hugepages": 2}, {"nodes": "0"}, {"soft_limit": 0}):
        refused = api("POST", path, json={"memory": asked}, who="user")
        assert "is for operators" in problem(refused, 403, "forbidden")["detail"]
        made = {"name": "mine", "plan": "tiny", "memory": asked}
        problem(api("POST", "/servers?dry_run=true", json=made, who="user"), 403, "forbidden")
    allowed = {"memory": {"balloon": False}}
    assert api("POST", path, json=allowed, who="user").status_code == 200


@sqlite
def test_no_memory_changes_under_a_snapshot_of_it(life: Backed) -> None:
    life.take("asleep", memory=True)
    for asked in ({"hugepages": 2}, {"balloon": False}, {"nodes": "0"}):
        with pytest.raises(Conflict, match=r"snapshots with its memory \(asleep\)"):
            life.tune(**asked)
    life.tune(soft_limit=90)


@sqlite
def test_every_number_of_pages_is_what_servers_hold(life: Backed) -> None:
    life.tune(hugepages=2)
    life.do(Verb.RESIZE, ResizeRequest(memory_mib=256, **CYCLE))
    assert life.pages == {"2": 128}
    life.do(Verb.RESIZE, ResizeRequest(memory_mib=200, **CYCLE))
    assert life.pages == {"2": 100}
    with pytest.raises(InvalidRequest, match="no whole huge pages"):
        life.do(Verb.RESIZE, ResizeRequest(memory_mib=201, **CYCLE))


@sqlite
def test_pages_of_other_nodes_help_nobody_who_is_bound(
    life: Backed, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_nodes = {"0": {"2": Pages(100, 100)}, "1": {"2": Pages(100, 100)}}
    two = replace(ABLE, nodes=(0, 1), on_nodes=on_nodes)
    monkeypatch.setattr(offers, "_told", lambda *_: two)
    life.tune(hugepages=2, nodes="0")
    other = life.of(life.catalogue.create("other").server_id)
    with transaction() as session:
        there = session.get_one(Server, other.server_id)
        there.status, there.operation_id = "stopped", None
        there.host_id = session.get_one(Server, life.server_id).host_id
    with pytest.raises(NoHostFits, match="asked, 4 of 100 free on NUMA node 0: "):
        other.ask(memory=fine(hugepages=2, nodes="0"))
    other.ask(memory=fine(hugepages=2, nodes="1"))
