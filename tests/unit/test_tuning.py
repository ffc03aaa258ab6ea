"""The fine print of a server's CPU: what it means, what it needs, and who may ask for it."""

from typing import Any

import pytest
from api_client import Api, problem
from conftest import Catalogue
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from stepwise import Life

from innkeeper.db.models import Host
from innkeeper.db.session import transaction
from innkeeper.domain import tuning
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.offer import Offer, objections
from innkeeper.domain.placement import Demand
from innkeeper.domain.planning import Effect
from innkeeper.domain.resizing import Room, Shape, resize
from innkeeper.domain.specs import ResizeRequest, ServerRequest
from innkeeper.domain.tuning import CpuTuning
from innkeeper.errors import HostUnreachable, InvalidRequest, NoHostFits
from innkeeper.hypervisor import cpu as adapter
from innkeeper.hypervisor import guest
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services import accept, offers, servers
from innkeeper.services.blueprint import HostBlueprint

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
BEFORE = Shape(2, 1024, 10, 8, 1024)
SAME = BEFORE.demand
ROOM = Room(16)
ME: dict[str, Any] = {"project_id": None, "actor": "me"}


@given(st.sets(st.integers(0, tuning.HIGHEST_CPU), min_size=1, max_size=40))
def test_a_cpu_set_is_read_as_it_was_written(numbers: set[int]) -> None:
    text = tuning.cpu_set(tuple(sorted(numbers)))
    assert set(tuning.cpus(text)) == numbers
    assert tuning.cpu_set(tuning.cpus(text)) == text


@pytest.mark.parametrize("text", ["x", "1-", "-1", "3-1", "0,", "4096", "0-99999", "1 2", "¹"])
def test_what_is_no_cpu_set_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="CPU set looks like"):
        CpuTuning(pin=text)


def test_what_is_left_out_stays_and_nothing_gives_back() -> None:
    before = {"limit": 50, "pin": "0-1"}
    assert tuning.merged(before, None) == before
    assert tuning.merged(before, CpuTuning(limit=0, shares=200)) == {"pin": "0-1", "shares": 200}
    assert tuning.merged(before, CpuTuning(pin="", limit=0, model="")) == {}
    assert CpuTuning(pin="3,1,2").pin == "1-3"


@given(st.integers(1, 32), st.integers(0, 4), st.integers(0, 2))
def test_a_topology_multiplies_to_the_vcpus(vcpus: int, sockets: int, threads: int) -> None:
    fine = tuning.merged({}, CpuTuning(sockets=sockets, threads=threads))
    if vcpus % (max(sockets, 1) * max(threads, 1)) and fine:
        with pytest.raises(InvalidRequest, match="cannot be"):
            tuning.require_sound(fine, vcpus)
        return
    tuning.require_sound(fine, vcpus)
    shape = ROOM.shape(Demand(vcpus, 64, 1), fine)
    assert (shape.max_vcpus == vcpus) or not fine, "all are there from the start"


def test_weight_limit_and_place_change_live() -> None:
    way = resize(BEFORE, SAME, ROOM, runs=True, cpu={"shares": 9, "limit": 50, "pin": "0"})
    assert (way.obstacles, way.growth) == ({}, Demand(0, 0, 0))
    assert [(c.effect, c.subject, c.before, c.after) for c in way.changes] == [
        (Effect.LIVE, "CPU shares", "default", "9"),
        (Effect.LIVE, "CPU limit", "none", "50 %"),
        (Effect.LIVE, "CPU pinning", "any", "0"),
    ]
    assert way.after.max_vcpus == BEFORE.max_vcpus, "and the room to grow stays"


def test_topology_and_model_are_what_a_guest_is_started_with() -> None:
    fine = {"sockets": 2, "model": "qemu64"}
    way = resize(BEFORE, SAME, ROOM, runs=True, cpu=fine)
    assert set(way.obstacles) == {"CPU topology", "CPU model"}
    assert {c.effect for c in way.changes} == {Effect.POWER_CYCLE}
    assert way.changes[0].after == "2 sockets x 1 cores x 1 threads"
    assert (way.after.vcpus, way.after.max_vcpus) == (2, 2)
    off = resize(BEFORE, SAME, ROOM, runs=False, cpu=fine)
    assert (off.obstacles, off.after) == ({}, way.after)
    with pytest.raises(InvalidRequest, match="3 vCPUs cannot be 2 sockets"):
        resize(way.after, Demand(3, 1024, 10), ROOM, runs=False)
    with pytest.raises(InvalidRequest, match="this size already"):
        resize(way.after, SAME, ROOM, runs=True, cpu=fine)


def test_the_hosts_own_weight_comes_with_a_start() -> None:
    weighed = resize(BEFORE, SAME, ROOM, runs=True, cpu={"shares": 9}).after
    assert set(resize(weighed, SAME, ROOM, runs=True, cpu={}).obstacles) == {"CPU shares"}


class Tuned(Life):
    """A server on a simulated host whose CPU is tuned."""

    def tune(self, *, failing: str = "", vcpus: int | None = None, **fine: Any) -> Phase:
        body = ResizeRequest(cpu=CpuTuning(**fine), vcpus=vcpus, allow_power_cycle=True)
        return self.do(Verb.RESIZE, body, failing=failing).phase

    def defined(self) -> dict[str, str]:
        """Return what the definition says of its CPU."""
        domain = self.conn.lookupByUUIDString(str(self.server_id))
        document = parse(domain.XMLDesc(2))
        found = {f"cputune/{n.tag}": n.text or "" for n in document.iterfind("cputune/*") if n.text}
        pins = {n.get("cpuset", "") for n in document.iterfind("cputune/vcpupin")}
        topology = document.find("cpu/topology")
        return (
            {name.removeprefix("cputune/"): text.strip() for name, text in found.items()}
            | ({"pins": ",".join(pins)} if pins else {})
            | (dict(topology.items()) if topology is not None else {})
        )


@pytest.fixture
def life(catalogue: Catalogue) -> Tuned:
    return Tuned(catalogue)


@sqlite
def test_it_is_defined_kept_and_given_back(life: Tuned) -> None:
    run = guest.domain_run_id(life.conn, life.server_id)
    life.tune(shares=300, limit=20, pin="1,0")
    assert servers.get(life.server_id).cpu == {"limit": 20, "pin": "0-1", "shares": 300}
    assert guest.domain_run_id(life.conn, life.server_id) == run
    kept = life.defined()
    assert (kept["shares"], kept["quota"], kept["pins"]) == ("300", "20000", "0-1")
    life.do(Verb.REBUILD)
    assert life.defined() == kept, "other verbs keep it"
    life.tune(vcpus=4, sockets=2, threads=2)
    there = life.defined()
    assert (there["sockets"], there["cores"], there["threads"]) == ("2", "1", "2")
    life.tune(sockets=0, threads=0, shares=0, limit=0, pin="")
    assert servers.get(life.server_id).cpu == {}
    assert "quota" not in life.defined()


@sqlite
@pytest.mark.parametrize("failing", ["reshape", "tune-cpu", "plug-vcpus"])
def test_a_failure_brings_the_old_fine_print_back(life: Tuned, failing: str) -> None:
    life.tune(limit=20)
    assert life.tune(limit=70, pin="0", failing=failing) is Phase.FAILED
    assert servers.get(life.server_id).cpu == {"limit": 20}
    assert life.defined()["quota"] == "20000"


@sqlite
def test_an_undo_gives_the_running_guest_the_weight_of_its_host_back(
    life: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [adapter.Tuning(1024, None, None)]
    monkeypatch.setattr(HostBlueprint, "simulated", False)
    monkeypatch.setattr(adapter, "tuned", lambda *_: adapter.Tuned(running[-1].shares or 0, -1, ()))
    monkeypatch.setattr(adapter, "tune", lambda _conn, _id, wanted: running.append(wanted))
    assert life.tune(shares=9, limit=50, failing="tune-cpu") is Phase.FAILED
    assert running[1:] == [adapter.Tuning(9, 50, None), adapter.Tuning(1024, None, None)]


@sqlite
def test_it_may_wait_and_is_what_it_was_then(life: Tuned) -> None:
    body = ResizeRequest(cpu=CpuTuning(sockets=2, limit=20), vcpus=2, defer=True)
    assert accept.request(Verb.RESIZE, life.server_id, body, **ME).deferred
    assert servers.get(life.server_id).cpu == {}
    life.carry(accept.request(Verb.REBOOT, life.server_id, **ME))
    assert servers.get(life.server_id).cpu == {"limit": 20, "sockets": 2}
    assert life.defined()["sockets"] == "2"


@sqlite
def test_a_host_that_has_fewer_cpus_is_no_home_for_a_pinned_server(life: Tuned) -> None:
    life.tune(pin="5")
    life.do(Verb.SHELVE)
    with transaction() as session:
        for host in session.query(Host):
            host.vcpus = 5
    with pytest.raises(Exception, match="it has no CPU 5 that is online, but 0-4"):
        accept.request(Verb.UNSHELVE, life.server_id, project_id=None, actor="me")


@sqlite
def test_the_host_is_asked_what_it_can(life: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match=r"Host alpha .* no CPU 8-9 that is online, but 0-7"):
        life.tune(pin="7-9")
    told = Offer((0, 2), ("qemu64", "maximum"), (0,))
    monkeypatch.setattr(offers, "_told", lambda *_: told)
    with pytest.raises(InvalidRequest, match="model 'Skylake', but maximum, qemu64"):
        life.tune(model="Skylake")
    with pytest.raises(InvalidRequest, match="no CPU 1 that is online, but 0,2"):
        life.tune(pin="0-1")
    with pytest.raises(InvalidRequest, match="no NUMA node 1, but 0"):
        life.tune(nodes="0-1")
    assert Offer.of(host_offer()) == told, "and kept"


def host_offer() -> dict[str, Any]:
    with transaction() as session:
        return session.query(Host).filter(Host.name == "alpha").one().offer


@sqlite
def test_a_host_that_does_not_answer_is_no_home_for_what_it_never_offered(
    life: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> Offer:
        raise HostUnreachable("alpha does not answer.")

    monkeypatch.setattr(offers, "_told", silent)
    with pytest.raises(HostUnreachable):
        life.tune(pin="0")
    wanted = ServerRequest(name="pinned", plan="tiny", cpu=CpuTuning(pin="0"))
    with pytest.raises(NoHostFits, match="it has not said what it offers"):
        accept.create_server(wanted, project_id=life.catalogue.project_id, actor="me")


@sqlite
def test_a_silent_host_is_in_the_way_of_no_other_verb(
    life: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.tune(pin="0")
    body = ResizeRequest(cpu=CpuTuning(pin="1", sockets=1), defer=True)
    assert accept.request(Verb.RESIZE, life.server_id, body, **ME).deferred

    def silent(*_: Any) -> Offer:
        raise HostUnreachable("alpha does not answer.")

    monkeypatch.setattr(offers, "_told", silent)
    view = accept.request(Verb.REBOOT, life.server_id, **ME)
    assert view.verb is Verb.RESIZE, "what waited is judged by what the host told last"
    life.carry(view)
    assert servers.get(life.server_id).cpu == {"pin": "1", "sockets": 1}
    life.do(Verb.RESIZE, ResizeRequest(disk_gib=2))
    life.do(Verb.DELETE)


@given(st.sets(st.integers(0, 9), min_size=1), st.sets(st.integers(0, 9), min_size=1), st.data())
def test_what_is_objected_to_is_what_is_missing(
    there: set[int], wanted: set[int], data: st.DataObject
) -> None:
    told = Offer(tuple(sorted(there)), None, tuple(sorted(there)))
    name, noun = data.draw(st.sampled_from([("pin", "CPU"), ("nodes", "NUMA node")]))
    fine = {name: tuning.cpu_set(tuple(sorted(wanted)))}
    said = objections(told, fine, {})
    if not wanted - there:
        assert said == []
        return
    missing = tuning.cpu_set(tuple(sorted(wanted - there)))
    assert len(said) == 1
    assert said[0].startswith(f"it has no {noun} {missing}")
    assert said[0].endswith(f", but {tuning.cpu_set(told.cpus)}")


@sqlite
def test_tenants_do_not_decide_how_a_host_is_shared(api: Api, life: Tuned) -> None:
    path = f"/servers/{life.server_id}/actions/resize"
    for fine in ({"pin": "0"}, {"shares": 9}, {"limit": 0}):
        refused = api("POST", path, json={"cpu": fine}, who="user")
        assert "is for operators" in problem(refused, 403, "forbidden")["detail"]
    allowed = {"cpu": {"sockets": 1}, "allow_power_cycle": True}
    assert api("POST", f"{path}?dry_run=true", json=allowed, who="user").status_code == 200
    assert api("POST", path, json={"cpu": {"pin": "0"}}, who="operator").status_code == 202
    assert servers.get(life.server_id).status is Status.ACTIVE
