"""Further network cards of servers that move, or rest on the shelf, on two simulated hosts."""

from typing import Any
from uuid import UUID

import pytest
from carded import attach, beside, isolated, plan, stands, told
from conftest import Catalogue
from journaled import artifacts, carried
from two_hosts import Life

from innkeeper.db.models import Address, Artifact, Network, Nic
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.specs import MigrateRequest, UnshelveRequest
from innkeeper.domain.steps import STEPS
from innkeeper.errors import HostUnreachable, NoHostFits
from innkeeper.services import (
    accept,
    edges,
    hosts,
    journal,
    networks,
    projects,
    substrates,
    survey,
)
from innkeeper.services.planning import Foresight
from tasks import reconciliation
from tasks.step import declared

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)
BRIDGED = {"network": "bridge", "bridge": "br0", "address": "192.0.2.7/24"}


@pytest.fixture
def life(catalogue: Catalogue) -> Life:
    found = Life(catalogue)
    attach(found, "own")
    attach(found, "back", isolated="backend")
    return found


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.STOPPED])
def test_cards_move_with_their_addresses_and_networks_come_and_go(
    life: Life, status: Status
) -> None:
    if status is Status.STOPPED:
        life.do(Verb.STOP)
    cards = life.view.nics
    assert len(isolated(life, "alpha")) == 1
    life.do(Verb.MIGRATE, COLD)
    assert life.view.status is status
    stands(life, "beta", cards)
    assert (isolated(life, "alpha"), len(isolated(life, "beta"))) == ([], 1)
    assert len(edges.rules(life.catalogue.host_ids["beta"]).isolated) == 1
    assert edges.rules(life.catalogue.host_ids["alpha"]).isolated == ()
    life.do(Verb.MIGRATE, COLD)
    stands(life, "alpha", cards)
    assert isolated(life, "beta") == []


def test_who_stays_keeps_the_network_and_is_named_and_who_follows_meets_again(life: Life) -> None:
    other = beside(life)
    shown = plan(life, Verb.MIGRATE, COLD)
    assert "Network cards that go along: own, back." in shown.warnings
    assert any("does not reach db on alpha any more" in warning for warning in shown.warnings)
    life.do(Verb.MIGRATE, COLD)
    stands(life, "beta", life.view.nics)
    stands(other, "alpha", other.view.nics)
    assert len(isolated(life, "alpha")) == len(isolated(life, "beta")) == 1
    third = beside(life, "late")  # the addresses of both hosts' networks are one another's
    addresses = [one.view.nics[-1].address for one in (life, other, third)]
    assert len(set(addresses)) == 3
    assert len({str(address).rpartition(".")[0] for address in addresses}) == 1
    assert projects.quota(life.catalogue.project_id).used_isolated_networks == 1
    other.do(Verb.MIGRATE, COLD)
    stands(other, "beta", other.view.nics)
    assert len(isolated(life, "alpha")) == 1, "the third is there"


@pytest.mark.parametrize("failing", ["substrate", "make-networks", "forward"])
def test_an_undone_migration_leaves_cards_and_networks_as_they_were(
    life: Life, failing: str
) -> None:
    cards, things = life.view.nics, artifacts()
    life.do(Verb.MIGRATE, COLD, failing=failing)
    stands(life, "alpha", cards)
    assert artifacts() == things
    assert isolated(life, "beta") == []
    with transaction() as session:
        assert session.query(Network).filter(Network.kind == "isolated").count() == 1


@pytest.mark.parametrize("failing", ["switch-over", "remove-lease", "clear-networks"])
def test_what_the_old_host_keeps_of_cards_is_reaped(life: Life, failing: str) -> None:
    cards = life.view.nics
    life.do(Verb.MIGRATE, COLD, failing=failing)
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    stands(life, "beta", cards)
    assert isolated(life, "alpha") == []


def test_reconcile_touches_no_network_that_somebody_moves_to_or_from(life: Life) -> None:
    view = life.ask(Verb.MIGRATE, COLD)
    held = journal.claim(view.id)
    for name in STEPS[Verb.MIGRATE]:
        for host_id in life.catalogue.host_ids.values():
            assert reconciliation.mend_host(host_id) == [], f"before {name}"
        declared(name)._attempt(held, undo=False)
    journal.complete(held)
    stands(life, "beta", life.view.nics)


@pytest.mark.parametrize(
    ("verb", "killed"), [(Verb.MIGRATE, False), (Verb.MIGRATE, True), (Verb.SHELVE, False)]
)
def test_of_two_who_leave_at_once_the_last_one_takes_the_network(
    life: Life, verb: Verb, killed: bool
) -> None:
    other = beside(life)
    steps = STEPS[verb]
    last = steps.index("clear-networks")
    held = [
        journal.claim(one.ask(verb, COLD if verb is Verb.MIGRATE else None).id)
        for one in (life, other)
    ]
    for claim in held:
        for name in steps[:last]:
            declared(name)._attempt(claim, undo=False)
    assert len(isolated(life, "alpha")) == 1
    first, second = held
    if killed:  # after it was noted, before anything was looked at
        journal.begin(first, "clear-networks")
    else:
        declared("clear-networks")._attempt(first, undo=False)
        assert len(isolated(life, "alpha")) == 1, "the other one may need it"
    declared("clear-networks")._attempt(second, undo=False)
    assert isolated(life, "alpha") == []
    for claim in held:
        for name in steps[last:]:
            declared(name)._attempt(claim, undo=False)
        journal.complete(claim)
    assert survey.audit() == []
    assert isolated(life, "alpha") == []
    assert len(isolated(life, "beta")) == (verb is Verb.MIGRATE)


@pytest.mark.parametrize("verb", [Verb.MIGRATE, Verb.UNSHELVE])
def test_of_two_who_do_not_come_after_all_the_last_one_takes_the_network(
    life: Life, verb: Verb
) -> None:
    other = beside(life)
    wish = COLD if verb is Verb.MIGRATE else UnshelveRequest(host="beta")
    if verb is Verb.UNSHELVE:
        for one in (life, other):
            one.do(Verb.SHELVE)
    held = [journal.claim(one.ask(verb, wish).id) for one in (life, other)]
    for name in ("substrate", "make-networks"):
        for claim in held:
            declared(name)._attempt(claim, undo=False)
    assert len(isolated(life, "beta")) == 1
    for claim in held:
        journal.undoing(claim, "made to fail")
        declared("make-networks")._attempt(claim, undo=True)
    assert isolated(life, "beta") == []
    for claim in held:
        journal.undone(claim)
    assert survey.audit() == []


def test_two_who_move_one_network_share_it_when_one_comes_back(life: Life) -> None:
    other = beside(life)
    one, two = (each.ask(Verb.MIGRATE, COLD) for each in (life, other))
    assert carried(one, failing="carry-disk").phase is Phase.FAILED
    with transaction() as session:
        assert session.query(Network).filter(Network.kind == "isolated").count() == 2
    assert carried(two).phase is Phase.SUCCEEDED
    stands(life, "alpha", life.view.nics)
    stands(other, "beta", other.view.nics)


def test_a_bridge_has_to_be_allowed_at_the_new_host_and_its_address_free(life: Life) -> None:
    ids = life.catalogue.host_ids
    hosts.update(ids["alpha"], {"bridges": ["br0"]})
    card = attach(life, "lan", **BRIDGED)
    with pytest.raises(NoHostFits, match="beta: no bridge br0 here for its network card lan"):
        life.ask(Verb.MIGRATE, COLD)
    hosts.update(ids["beta"], {"bridges": ["br0"]})
    cards = life.view.nics
    life.do(Verb.MIGRATE, COLD)
    stands(life, "beta", cards)
    taker = beside(life, "taker", isolated=None)
    attach(taker, "lan", **BRIDGED)
    with pytest.raises(
        NoHostFits, match=r"192.0.2.7/24 of its network card lan is taken on bridge"
    ):
        life.ask(Verb.MIGRATE, COLD)
    assert life.view.nics[-1] == card


def test_a_bridge_that_is_allowed_but_not_there_undoes_all(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host_id in life.catalogue.host_ids.values():
        hosts.update(host_id, {"bridges": ["br0"]})
    attach(life, "lan", **BRIDGED)
    before = life.view.nics

    def missing(host_id: UUID, bridge: str) -> None:
        assert host_id == life.catalogue.host_ids["beta"]
        raise networks.BridgeMissing(f"no bridge {bridge}")

    monkeypatch.setattr(networks, "require_bridge", missing)
    ended = carried(life.ask(Verb.MIGRATE, COLD))
    assert (ended.phase, ended.error) == (Phase.FAILED, "no bridge br0")
    stands(life, "alpha", before)


def test_a_network_that_was_made_and_not_noted_is_removed(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards, note = life.view.nics, substrates.record_network

    def lose(network_id: UUID, fingerprint: str) -> None:
        with transaction() as session:
            kind = session.get_one(Network, network_id).kind
        if kind == "isolated":
            raise HostUnreachable("It was made, and nobody knows.")
        note(network_id, fingerprint)

    monkeypatch.setattr(substrates, "record_network", lose)
    assert carried(life.ask(Verb.MIGRATE, COLD)).phase is Phase.FAILED
    stands(life, "alpha", cards)
    assert isolated(life, "beta") == []


def test_a_network_of_that_name_with_other_addresses_is_no_place_to_go(life: Life) -> None:
    with transaction() as session:
        row = session.query(Network).filter(Network.kind == "isolated").one()
        there = Network(
            project_id=row.project_id,
            host_id=life.catalogue.host_ids["beta"],
            name=row.name,
            bridge="ik-12345678",
            cidr="10.79.255.0/24",
            kind="isolated",
            label=row.label,
        )
        session.add(there)
    with pytest.raises(NoHostFits, match=r"back has an address on 10\.\S+, but backend here is"):
        life.ask(Verb.MIGRATE, COLD)
    with transaction() as session:
        session.get_one(Network, there.id).name = "innkeeper-other"
        session.get_one(Network, there.id).cidr = row.cidr
    with pytest.raises(NoHostFits, match="of its network card back is another network here"):
        life.ask(Verb.MIGRATE, COLD)


def test_a_shelved_server_keeps_its_addresses_and_none_of_its_networks(life: Life) -> None:
    cards = life.view.nics
    life.do(Verb.SHELVE)
    assert survey.audit() == []
    assert isolated(life, "alpha") == []
    assert told(life, "alpha") == set()
    assert life.view.nics == cards
    other = beside(life)
    assert other.view.nics[-1].address not in {card.address for card in cards}
    assert "db on alpha" in " ".join(
        plan(life, Verb.UNSHELVE, UnshelveRequest(host="beta")).warnings
    )
    assert not any("reach" in w for w in plan(life, Verb.UNSHELVE).warnings), "it comes back there"
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"))
    stands(life, "beta", cards)
    assert len(isolated(life, "beta")) == 1
    life.do(Verb.SHELVE)
    life.do(Verb.UNSHELVE, UnshelveRequest(host="alpha"))
    stands(life, "alpha", cards)
    assert isolated(life, "beta") == []


@pytest.mark.parametrize("failing", ["substrate", "make-networks", "start"])
def test_an_undone_unshelving_leaves_nothing_of_cards(life: Life, failing: str) -> None:
    cards = life.view.nics
    life.do(Verb.SHELVE)
    life.do(Verb.UNSHELVE, UnshelveRequest(host="beta"), failing=failing)
    assert survey.audit() == []
    assert (isolated(life, "alpha"), isolated(life, "beta")) == ([], [])
    assert (told(life, "alpha"), told(life, "beta")) == (set(), set())
    life.do(Verb.UNSHELVE, UnshelveRequest(host="alpha"))
    stands(life, "alpha", cards)


@pytest.mark.parametrize("failing", ["adopt-shelf", "clear-networks"])
def test_what_a_shelving_did_not_get_to_is_reaped_and_addresses_stay(
    life: Life, failing: str
) -> None:
    cards = life.view.nics
    life.do(Verb.SHELVE, failing=failing)
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert survey.audit() == []
    assert isolated(life, "alpha") == []
    assert life.view.nics == cards
    life.do(Verb.UNSHELVE)
    stands(life, "alpha", cards)


def test_where_a_shelved_servers_bridge_is_not_it_cannot_come_back(life: Life) -> None:
    alpha = life.catalogue.host_ids["alpha"]
    hosts.update(alpha, {"bridges": ["br0"]})
    attach(life, "lan", **BRIDGED)
    life.do(Verb.SHELVE)
    hosts.update(alpha, {"bridges": []})
    with pytest.raises(NoHostFits, match=r"alpha: no bridge br0 here.*beta: no bridge br0"):
        life.ask(Verb.UNSHELVE)


@pytest.mark.parametrize("silent", [True, False])
def test_a_shelved_server_is_deleted_with_its_networks(
    life: Life, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    life.do(Verb.SHELVE, failing="undefine" if silent else "")
    left = len(isolated(life, "alpha"))
    assert left == silent

    def unreachable(*_: Any) -> None:
        raise HostUnreachable("alpha does not answer.")

    with monkeypatch.context() as patch:
        if silent:
            with transaction() as session:
                session.query(Artifact).delete()  # nothing else of it is there any more
            patch.setattr(networks.adapter, "remove_network", unreachable)
        life.do(Verb.DELETE)
    reconciliation.mend_host(life.catalogue.host_ids["alpha"])
    assert survey.audit() == []
    assert isolated(life, "alpha") == []
    with transaction() as session:
        assert session.query(Network).filter(Network.kind == "isolated").count() == 0


def test_a_plan_that_was_seen_is_outdated_when_a_card_comes(life: Life) -> None:
    seen = plan(life, Verb.MIGRATE, COLD)
    attach(life, "more")
    with pytest.raises(Exception, match="network cards"):
        accept.request(
            Verb.MIGRATE,
            life.server_id,
            COLD,
            project_id=None,
            actor="me",
            foresight=Foresight(digest=seen.digest),
        )


def test_a_stray_card_is_told_of_a_server_that_has_no_further_ones(catalogue: Catalogue) -> None:
    life = Life(catalogue)
    attach(life, "own")
    mac = life.view.nics[1].mac
    with transaction() as session:
        session.query(Address).filter(Address.ip == life.view.nics[1].address).delete()
        session.query(Nic).filter(Nic.position == 1).delete()
    told_of = {(f.kind, f.name, f.problem) for f in survey.audit() if f.kind == "nic"}
    assert told_of == {("nic", mac, "the domain has it, its server has not")}
