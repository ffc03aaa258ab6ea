"""Network cards on simulated hosts: accepted, attached, detached, undone, deleted."""

from typing import Any
from uuid import UUID

import libvirt
import pytest
from api_client import Api
from conftest import Catalogue
from journaled import snapshot
from sqlalchemy import select
from stepwise import Life

from innkeeper.db.models import Address, Event, Host, Network, Nic, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import ResizeRequest, RevertRequest, SnapshotRequest
from innkeeper.errors import Conflict, InvalidRequest, NotFound
from innkeeper.hypervisor import network, nics
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services import (
    accept,
    hosts,
    journal,
    networks,
    operations,
    policies,
    servers,
    survey,
)
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, OperationView
from tasks import reconciliation
from tasks.step import declared

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    return Life(catalogue)


def attach(life: Life, name: str = "back", *, failing: str = "", **fields: Any) -> OperationView:
    if "isolated" in fields:
        fields["network"] = "isolated"
    return life.do(Verb.ATTACH_NIC, AttachNicRequest(name=name, **fields), failing=failing)


def detach(life: Life, name: str = "back", *, failing: str = "") -> OperationView:
    return life.do(Verb.DETACH_NIC, DetachNicRequest(nic=name), failing=failing)


def ask(verb: Verb, server_id: UUID, body: Any = None, **more: Any) -> OperationView:
    return accept.request(verb, server_id, body, project_id=None, actor="tester", **more)


def plan(verb: Verb, server_id: UUID, body: Any = None) -> ChangePlan:
    before = snapshot()
    with pytest.raises(Foreseen) as end:
        ask(verb, server_id, body, foresight=Foresight(dry_run=True))
    assert snapshot() == before
    return end.value.plan


def neighbour(life: Life, name: str = "other") -> Life:
    """Return another server on the same host."""
    view = life.catalogue.create(name)
    with transaction() as session:
        here = session.get_one(Server, life.server_id).host_id
        assert session.get_one(Server, view.server_id).host_id == here
    other = life.of(view.server_id)
    other.carry(operations.get(view.id))
    return other


def isolated(life: Life) -> list[str]:
    return [name for name in network.network_names(life.conn) if "-iso-" in name]


def agreed(life: Life, *names: str) -> None:
    """Assert that database, domain and DHCP agree, and that the server has these further cards."""
    view = servers.get(life.server_id)
    assert [nic.name for nic in view.nics] == ["primary", *names]
    assert (view.nics[0].mac, view.nics[0].address) == (view.mac, view.address)
    assert {nic.phase for nic in view.nics} == {"attached"}
    assert nics.macs(life.conn, life.server_id, defined=True) == {nic.mac for nic in view.nics}
    with transaction() as session:
        rows = {row.name: row.id for row in session.scalars(select(Network))}
        pairs = select(Nic.mac, Address.ip).join(Address, Address.nic_id == Nic.id)
        wanted = dict(session.execute(pairs).tuples().all())
    there = set(network.network_names(life.conn)) - {"default"}
    assert there == set(rows)
    entries = [e for name in there for e in network.dhcp_hosts(life.conn, name)]
    assert {entry.mac: str(entry.ip) for entry in entries} == wanted
    assert survey.audit() == []


@sqlite
@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_cards_come_and_go_and_an_isolated_network_with_them(life: Life, running: bool) -> None:
    other = neighbour(life)
    if not running:
        life.do(Verb.STOP)
    attach(life, "own", address="10.64.0.77", mac="02:00:00:00:00:0a")
    attach(life, isolated="backend")
    agreed(life, "own", "back")
    own, back = servers.get(life.server_id).nics[1:]
    assert (own.kind, own.mac, own.address) == ("project", "02:00:00:00:00:0a", "10.64.0.77")
    assert (back.kind, back.network) == ("isolated", "backend")
    attach(other, "b", isolated="backend")
    agreed(other, "b")
    assert len(isolated(life)) == 1, "they meet on one network"
    mine, theirs = back.address, servers.get(other.server_id).nics[1].address
    assert mine
    assert theirs
    assert mine.rpartition(".")[0] == theirs.rpartition(".")[0]
    assert mine != theirs
    detach(life)
    assert len(isolated(life)) == 1, "the other one is still there"
    agreed(life, "own")
    detach(other, "b")
    assert isolated(life) == []
    agreed(other)
    detach(life, "own")
    agreed(life)
    with transaction() as session:
        kinds = session.scalars(
            select(Event.kind).where(Event.kind.startswith("nic.")).order_by(Event.id)
        ).all()
    assert kinds == ["nic.attached"] * 3 + ["nic.detached"] * 3


@sqlite
@pytest.mark.parametrize("failing", ["make-network", "lease-nic", "plug-nic", "adopt-nic"])
def test_an_attachment_that_fails_leaves_all_as_it_was(life: Life, failing: str) -> None:
    attach(life, "stays")
    before = servers.get(life.server_id).nics
    attach(life, isolated="backend", failing=failing)
    assert servers.get(life.server_id).nics == before
    assert isolated(life) == []
    agreed(life, "stays")


@sqlite
def test_a_failed_attachment_leaves_the_network_of_others_alone(life: Life) -> None:
    attach(life, isolated="backend")
    attach(life, "more", isolated="backend", failing="adopt-nic")
    agreed(life, "back")
    assert len(isolated(life)) == 1


@sqlite
@pytest.mark.parametrize("failing", ["unplug-nic", "unlease-nic"])
def test_a_detachment_that_fails_gives_the_card_back(life: Life, failing: str) -> None:
    attach(life, isolated="backend")
    before = servers.get(life.server_id).nics
    detach(life, failing=failing)
    assert servers.get(life.server_id).nics == before
    agreed(life, "back")


@sqlite
def test_what_a_detachment_did_not_get_to_is_reaped(life: Life) -> None:
    attach(life, isolated="backend")
    view = ask(Verb.DETACH_NIC, life.server_id, DetachNicRequest(nic="back"))
    ended = life.carry(view, failing="let-nic-go")
    assert ended.phase is Phase.FAILED
    assert servers.get(life.server_id).status is Status.ACTIVE
    assert [finding.problem for finding in survey.audit()] == ["an isolated network without a card"]
    with transaction() as session:
        host_id = session.scalars(select(Network.host_id)).first()
    assert host_id
    reconciliation.mend_host(host_id)
    agreed(life)
    assert isolated(life) == []


@sqlite
def test_an_undo_that_fails_leaves_the_card_attached(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(_: Any) -> str:
        raise nics.NicHeld("The guest has not let go of the network card.")

    view = ask(
        Verb.ATTACH_NIC,
        life.server_id,
        AttachNicRequest(name="back", network="isolated", isolated="backend"),
    )
    held = journal.claim(view.id)
    for name in ("make-network", "lease-nic", "plug-nic"):
        declared(name)._attempt(held, undo=False)
    begun = journal.undoing(held, "made to fail")
    monkeypatch.setattr(declared("plug-nic"), "undo", stuck)
    for step in begun:
        if step.name == "plug-nic":
            with pytest.raises(nics.NicHeld):
                declared(step.name)._attempt(held, undo=True)
        else:
            declared(step.name)._attempt(held, undo=True)
    journal.undone(held)
    assert len(isolated(life)) == 1, "not from beneath a card"
    agreed(life, "back")
    monkeypatch.undo()
    detach(life)
    assert isolated(life) == []


@sqlite
def test_a_network_that_somebody_comes_back_to_is_made_again(life: Life) -> None:
    attach(life, isolated="backend")
    with transaction() as session:
        network_id = session.scalars(select(Network.id).where(Network.label == "backend")).one()
        own = session.scalars(select(Nic.id).where(Nic.position == 1)).one()
    assert networks.clear(network_id, but=[own]), "as if that card were to go"
    assert isolated(life) == []
    attach(life, "more", isolated="backend")
    assert len(isolated(life)) == 1
    assert not networks.clear(network_id)


@sqlite
def test_every_definition_tells_of_the_cards_and_a_deletion_forgets_them(life: Life) -> None:
    attach(life, isolated="backend")
    attach(life, "own")
    life.do(Verb.RESIZE, ResizeRequest(disk_gib=9))
    agreed(life, "back", "own")
    life.do(Verb.REBUILD)
    agreed(life, "back", "own")
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="bare"))
    life.do(Verb.REVERT, RevertRequest(snapshot="bare"))
    agreed(life, "back", "own")
    conn = life.conn
    life.do(Verb.DELETE)
    assert [name for name in network.network_names(conn) if "-iso-" in name] == []
    with transaction() as session:
        assert session.scalars(select(Nic)).all() == []
        assert session.scalars(select(Address)).all() == []
    assert survey.audit() == []


@sqlite
def test_a_memory_that_knows_other_cards_is_refused(life: Life) -> None:
    life.do(Verb.SNAPSHOT, SnapshotRequest(name="asleep", memory=True))
    attach(life, "own")
    for verb, body in (
        (Verb.SNAPSHOT, SnapshotRequest(name="two", memory=True)),
        (Verb.REVERT, RevertRequest(snapshot="asleep")),
    ):
        with pytest.raises(Conflict, match=r"further network cards \(own\) and cannot"):
            ask(verb, life.server_id, body)
    detach(life, "own")
    life.do(Verb.REVERT, RevertRequest(snapshot="asleep"))


@sqlite
def test_what_cannot_be_had_is_refused_by_name(life: Life) -> None:
    def refused(kind: type[Exception], why: str, **fields: Any) -> None:
        before = snapshot()
        with pytest.raises(kind, match=why):
            ask(Verb.ATTACH_NIC, life.server_id, AttachNicRequest(**({"name": "n"} | fields)))
        assert snapshot() == before

    view = servers.get(life.server_id)
    refused(Conflict, "has a card 'primary' already", name="primary")
    refused(Conflict, f"has the MAC {view.mac} already", mac=view.mac)
    refused(Conflict, f"{view.address} is taken", address=view.address)
    refused(InvalidRequest, "no address for a card", address="192.0.2.7")
    bridge = {"network": "bridge", "bridge": "br0"}
    refused(
        InvalidRequest, r"does not allow network cards on bridge br0 \(allowed: none\)", **bridge
    )
    with pytest.raises(InvalidRequest, match="primary card of 'web' carries"):
        ask(Verb.DETACH_NIC, life.server_id, DetachNicRequest(nic="primary"))
    with pytest.raises(NotFound, match="has no card 'none'"):
        ask(Verb.DETACH_NIC, life.server_id, DetachNicRequest(nic="none"))
    for number in range(4):
        attach(life, f"n{number}")
    refused(Conflict, "5 network cards at most")
    with transaction() as session:
        macs = session.scalars(select(Nic.mac)).all()
    assert len(set(macs)) == 5


@sqlite
def test_a_card_on_a_bridge_that_the_operator_allows(life: Life) -> None:
    with transaction() as session:
        host_id = session.get_one(Server, life.server_id).host_id
    assert host_id
    hosts.update(host_id, {"bridges": ["br0", "br0.100"]})
    asked = {"network": "bridge", "bridge": "br0"}
    address = {"address": "192.0.2.7/24", "gateway": "192.0.2.1", "dns": ["192.0.2.53"]}
    attach(life, "lan", **asked, **address)
    attach(life, "tagged", network="vlan", bridge="br0", vlan=100)
    lan, tagged = servers.get(life.server_id).nics[1:]
    assert (lan.kind, lan.network, lan.address) == ("bridge", "br0", "192.0.2.7/24")
    assert (lan.gateway, lan.dns) == ("192.0.2.1", ["192.0.2.53"])
    assert (tagged.network, tagged.address) == ("br0.100", None)
    with pytest.raises(Conflict, match=r"192.0.2.7/24 is taken on bridge br0"):
        ask(
            Verb.ATTACH_NIC,
            life.server_id,
            AttachNicRequest(name="n", network="bridge", bridge="br0", address="192.0.2.7/24"),
        )
    agreed(life, "lan", "tagged")
    detach(life, "lan")
    detach(life, "tagged")
    agreed(life)


@sqlite
def test_a_limit_is_refused_where_the_host_cannot_and_else_is_in_the_domain(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    def obstacle(channel: Any) -> str | None:
        tried.append(channel)
        return "tc qdisc add: unknown" if len(tried) == 1 else None

    monkeypatch.setattr(networks.shaping, "obstacle", obstacle)
    with transaction() as session:
        host = session.get_one(Host, session.get_one(Server, life.server_id).host_id)
        host.virt_type = "qemu"  # of a simulated one nothing is asked
    with pytest.raises(networks.ShapingUnsupported, match=r"\(tc qdisc add: unknown\)"):
        networks.require_shaping(host.id)
    for _ in range(2):
        networks.require_shaping(host.id)
    assert len(tried) == 2, "that it can is remembered, that it cannot is not"
    with transaction() as session:
        session.get_one(Host, host.id).virt_type = "test"
    attach(life, inbound_kb=1000, outbound_kb=250)
    agreed(life, "back")
    domain = life.conn.lookupByUUIDString(str(life.server_id))
    document = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    limits = [limit.get("average") for limit in document.iterfind(".//bandwidth/*")]
    assert limits == ["1000", "250"]
    view = servers.get(life.server_id).nics[1]
    assert (view.inbound_kb, view.outbound_kb) == (1000, 250)


@sqlite
def test_a_policy_asks_for_no_memory_and_clones_are_in_no_cards_way(life: Life) -> None:
    life.clone("twin")
    owner = life.catalogue.project_id
    policies.create("usual", "hourly:2", project_id=owner, memory=True, stagger_minutes=0)

    def memory() -> bool:
        taken = [wish.take for wish in policies.wishes() if wish.server_id == life.server_id]
        assert taken[0]
        return taken[0].memory

    assert memory()
    attach(life, "own")
    assert not memory()
    detach(life, "own")
    assert memory()


@sqlite
def test_a_card_that_strayed_is_told(life: Life) -> None:
    attach(life, isolated="backend")
    with transaction() as session:
        session.scalars(select(Nic).where(Nic.position == 1)).one().mac = "02:00:00:00:00:01"
    told = {(finding.kind, finding.problem) for finding in survey.audit()}
    assert ("nic", "the server has it, its domain has not, or not at its next start") in told
    assert ("nic", "the domain has it, its server has not") in told


@sqlite
def test_plans_tell_what_would_be(life: Life, api: Api) -> None:
    body = AttachNicRequest(name="back", network="isolated", isolated="backend")
    shown = plan(Verb.ATTACH_NIC, life.server_id, body)
    change = shown.changes[0]
    assert (change.effect, change.subject, change.after) == (
        "live",
        "network card back",
        "on backend",
    )
    assert shown.interruption == "none"
    assert any("DHCP" in warning for warning in shown.warnings)
    attach(life, isolated="backend")
    address = servers.get(life.server_id).nics[1].address
    gone = plan(Verb.DETACH_NIC, life.server_id, DetachNicRequest(nic="back"))
    assert gone.changes[0].before == f"on backend, {address}"
    assert "Network cards that go with it: back." in plan(Verb.DELETE, life.server_id).warnings
    path = f"/servers/{life.server_id}/actions/attach-nic"
    answer = api("POST", path, json={"name": "n", "gateway": "192.0.2.1"})
    assert answer.status_code == 422
    with transaction() as session:
        host = session.scalars(select(Host.id)).first()
    for name, status in (("ik-12345678", 422), ("br0", 200)):
        changed = api("PATCH", f"/hosts/{host}", "operator", json={"bridges": [name]})
        assert changed.status_code == status, changed.text
    assert changed.json()["bridges"] == ["br0"]
