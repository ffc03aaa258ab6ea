"""Where a guest is, and what follows: every pair of what two hosts can say of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import libvirt
import pytest
from conftest import Catalogue
from journaled import started

from innkeeper.domain.lifecycle import Status
from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor import guest, migration, snapshot, storage
from innkeeper.hypervisor.migration import Side, Way
from innkeeper.hypervisor.power import PowerState
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services import events, migrating
from tasks import carry, migrate
from tasks.guest_login import GuestUnreachable
from tasks.migrate import GuestGone

RUNS = Side(PowerState.RUNNING, runs=True)
STANDS = Side(PowerState.PAUSED)
FULL = Side(PowerState.PAUSED, runs=True)  # its pool there is full: it was let run before
OFF = Side(PowerState.OFF)
LEFT = Side(PowerState.OFF, left=True)
NONE = Side(None)
ARRIVED, STAYS, GONE = "arrived", "stays", "gone"


class Hosts:
    """Two hosts that say what they are told to, and note what is done to the guest there."""

    def __init__(self, old: Side, new: Side | None) -> None:
        self.sides = {"old": old, "new": new}
        self.done: list[str] = []

    def connect(self, uri: str, *_: Any) -> str:
        if self.sides[uri] is None:
            raise HostUnreachable(f"The host {uri} does not answer.")
        return uri

    def look(self, host: str, _server_id: object) -> Side:
        side = self.sides[host]
        assert side is not None
        return side

    def destroy(self, host: str, _server_id: object) -> None:
        self.done.append(f"destroyed at the {host}")
        self.sides[host] = OFF

    def start(self, host: str, _server_id: object) -> None:
        running = [name for name, side in self.sides.items() if side and side.runs]
        assert running == [], "two of it would run"
        self.done.append(f"let run at the {host}")

    def switch_host(self, _claim: object) -> None:
        self.done.append("switched")


@pytest.fixture
def hosts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    made = Hosts(*request.param)
    monkeypatch.setattr(migrate, "connect", made.connect)
    monkeypatch.setattr(carry, "connect", made.connect)
    monkeypatch.setattr(migration, "look", made.look)
    monkeypatch.setattr(migration, "abort", lambda *_: None)
    monkeypatch.setattr(migration, "await_end", lambda *_: None)
    monkeypatch.setattr(guest, "destroy", made.destroy)
    monkeypatch.setattr(migrate.journal, "heartbeat", lambda _claim: None)
    monkeypatch.setattr(guest, "start", made.start)
    monkeypatch.setattr(migrating, "switch_host", made.switch_host)
    return made


def blueprint(**notes: Any) -> Any:
    old, new = (
        SimpleNamespace(uri=name, name=name, channel="local:", edge_address=name)
        for name in ("old", "new")
    )
    return SimpleNamespace(
        server_id=uuid4(),
        name="web",
        host=old,
        there=SimpleNamespace(host=new),
        request={"live": True},
        step_data=notes,
        claim=None,
    )


@pytest.mark.parametrize(
    ("hosts", "end", "done"),
    [
        ((RUNS, NONE), STAYS, []),
        ((RUNS, OFF), STAYS, []),
        ((RUNS, STANDS), STAYS, ["destroyed at the new"]),
        ((STANDS, RUNS), ARRIVED, []),
        ((STANDS, FULL), ARRIVED, []),
        ((STANDS, STANDS), STAYS, ["destroyed at the new", "let run at the old"]),
        ((STANDS, OFF), STAYS, ["let run at the old"]),
        ((FULL, OFF), STAYS, []),
        ((LEFT, RUNS), ARRIVED, []),
        ((LEFT, OFF), ARRIVED, []),  # it shut itself down there
        ((OFF, RUNS), ARRIVED, []),
        ((OFF, OFF), GONE, []),  # it shut itself down here
        ((OFF, STANDS), GONE, ["destroyed at the new"]),
    ],
    indirect=["hosts"],
)
def test_where_it_goes_on(hosts: Hosts, end: str, done: list[str]) -> None:
    told = SimpleNamespace(tell=lambda *_: None)
    if end is GONE:
        with pytest.raises(GuestGone, match="went off"):
            migrate._arrived(blueprint(), told)  # type: ignore[arg-type]
    else:
        assert migrate._arrived(blueprint(), told) is (end is ARRIVED)  # type: ignore[arg-type]
    assert hosts.done == done


@pytest.mark.parametrize(
    ("hosts", "done"),
    [
        ((RUNS, OFF), []),
        ((RUNS, None), []),  # nobody has to ask a host that is silent
        ((STANDS, RUNS), ["switched"]),
        ((STANDS, STANDS), ["destroyed at the new", "let run at the old"]),
        ((LEFT, OFF), ["switched"]),
        ((OFF, RUNS), ["switched"]),
        ((OFF, OFF), ["destroyed at the new"]),
    ],
    indirect=["hosts"],
)
def test_an_undo_takes_it_back_or_leaves_it_where_it_runs(hosts: Hosts, done: list[str]) -> None:
    migrate.take_back(blueprint(leaving=True))
    assert hosts.done == done


@pytest.mark.parametrize("hosts", [(STANDS, None), (OFF, None)], indirect=True)
def test_nobody_decides_while_the_only_one_who_knows_is_silent(hosts: Hosts) -> None:
    with pytest.raises(HostUnreachable):
        migrate.take_back(blueprint(leaving=True))
    assert hosts.done == []
    assert migrate.take_back(blueprint()) == "it never left"


def test_its_document_names_what_is_there() -> None:
    document = """<domain><devices>
      <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
        <source file='/a/root' index='2'/><backingStore type='file'><source file='/a/image'/>
        </backingStore><target dev='vda' bus='virtio'/></disk>
      <disk type='file' device='disk'><source file='/a/seed' index='1'/><target dev='vdz'/></disk>
      <interface type='network'><mac address='52:54:00:00:00:01'/>
        <source network='n' portid='x' bridge='ik-a'/></interface>
      <interface type='network'><source network='i' portid='y' bridge='ik-b'/></interface>
      <interface type='bridge'><source bridge='br0'/><target dev='vnet2'/></interface>
    </devices></domain>"""
    files = {"/a/root": "/b/root", "/a/seed": "/b/seed"}
    made = parse(migration.elsewhere(document, files, {"n": "m"}, "<domain/>"))
    assert [s.attrib for s in made.iterfind("devices/disk/source")] == [
        {"file": "/b/root"},
        {"file": "/b/seed"},
    ]
    assert made.findall(".//backingStore") == []
    assert [s.attrib for s in made.iterfind("devices/interface/source")] == [
        {"network": "m"},
        {"network": "i"},
        {"bridge": "br0"},
    ]
    assert made.find("devices/interface/mac") is not None


def test_a_numa_node_has_other_cpus_on_another_host() -> None:
    pins = "<domain><cputune><shares>7</shares>{}</cputune></domain>"
    here = pins.format("<vcpupin vcpu='0' cpuset='0-7'/><vcpupin vcpu='2' cpuset='0-7'/>")
    there = pins.format("<vcpupin vcpu='0' cpuset='0-1'/><vcpupin vcpu='1' cpuset='0-1'/>")
    made = parse(migration.elsewhere(here, {}, {}, there))
    assert [(pin.get("vcpu"), pin.get("cpuset")) for pin in made.iterfind("cputune/vcpupin")] == [
        ("0", "0-1"),
        ("2", "0-7"),
    ]
    assert made.findtext("cputune/shares") == "7"


def test_a_memory_goes_on_with_the_bounds_of_today() -> None:
    given: list[str] = []
    name = "<uuid>6d0f3f1c-5d2b-4f0e-8a39-0d3c1c9f4c11</uuid>"
    then = "<cputune><shares>7</shares></cputune><memtune><soft_limit>1</soft_limit></memtune>"
    today = "<memtune><soft_limit>2</soft_limit></memtune>"
    domain = SimpleNamespace(XMLDesc=lambda _: f"<domain>{today}</domain>")
    host = SimpleNamespace(
        saveImageGetXMLDesc=lambda *_: f"<domain>{name}{then}<devices/></domain>",
        lookupByUUIDString=lambda _: domain,
        restoreFlags=lambda _path, document, _flags: given.append(document),
    )
    snapshot.restore(host, Path("/p/x.mem"), Path("/p/layer"), "net")  # type: ignore[arg-type]
    made = parse(given[0])
    assert (made.find("cputune"), made.findtext("memtune/soft_limit")) == (None, "2")


@pytest.mark.parametrize(
    ("way", "uri", "disks"),
    [
        (Way(address="192.0.2.7"), "tcp://192.0.2.7", None),
        (Way(address="2001:db8::7"), "tcp://[2001:db8::7]", None),
        (Way(sockets=Path("/p/.x")), "unix:///p/.x.memory", "unix:///p/.x.disks"),
    ],
)
def test_the_way(way: Way, uri: str, disks: str | None) -> None:
    made = way.parameters()
    assert made[libvirt.VIR_MIGRATE_PARAM_URI] == uri
    assert made.get(libvirt.VIR_MIGRATE_PARAM_DISKS_URI) == disks


def test_no_socket_is_left(tmp_path: Path) -> None:
    for name in ("x.memory", "x.disks", "y.disks"):
        (tmp_path / name).touch()
    Way(sockets=tmp_path / "x").forget()
    Way(sockets=tmp_path / "x").forget()
    Way(address="192.0.2.7").forget()
    assert [path.name for path in tmp_path.iterdir()] == ["y.disks"]


@pytest.mark.parametrize("hosts", [(LEFT, OFF), (LEFT, RUNS), (STANDS, RUNS)], indirect=True)
def test_a_disk_that_the_guest_went_to_is_never_made_anew(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the guest's disk was replaced")

    monkeypatch.setattr(storage, "ensure_volume", forbidden)
    monkeypatch.setattr(storage, "delete_volume", forbidden)
    b = blueprint(leaving=True)
    there = SimpleNamespace(**vars(b) | {"host": b.there.host, "there": b, "committed": False})
    assert "guest is on it" in (carry.carry_disk.effect(there) or "")  # type: ignore[arg-type]
    assert hosts.done == []


@pytest.mark.parametrize(("before", "told"), [(True, 1), (False, 0), (None, 0)])
def test_a_guest_that_fell_silent_is_told(
    monkeypatch: pytest.MonkeyPatch, before: bool | None, told: int
) -> None:
    def silent(*_: Any) -> str:
        raise GuestUnreachable("nobody could log in")

    reasons: list[str] = []
    noted = {} if before is None else {migrate.ANSWERED: before}
    monkeypatch.setattr(migrate, "expect_answer", silent)
    monkeypatch.setattr(migrate.journal, "noted", lambda *_: noted)
    monkeypatch.setattr(migrating, "tell_silence", lambda _claim, why: reasons.append(why))
    b = blueprint()
    b.previous_status = Status.ACTIVE
    assert "nobody could log in" in (migrate.answer_there.effect(b) or "")
    assert len(reasons) == told


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_its_silence_is_an_event_that_says_what_to_do(catalogue: Catalogue) -> None:
    held = started(catalogue)
    migrating.tell_silence(held, "Nobody could log in.")
    (event,) = events.page(kind="server.silent-since-move").items
    assert event.server_id == held.server_id
    assert "reboot web --hard" in event.reason
