"""Network cards that are asked for at the same moment."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import UUID

import pytest
from conftest import Catalogue, Race
from journaled import active
from sqlalchemy import select

from innkeeper.db.models import Address, Network, Nic
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.domain.specs import MigrateRequest
from innkeeper.errors import QuotaExceeded
from innkeeper.services import accept, binding, journal, projects
from innkeeper.services.views import OperationView


def ask(server_id: UUID, body: AttachNicRequest) -> OperationView:
    return accept.request(Verb.ATTACH_NIC, server_id, body, project_id=None, actor="tester")


def test_those_who_come_at_once_meet_on_one_network(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"web-{number}") for number in range(6)]
    body = AttachNicRequest(name="back", network="isolated", isolated="backend")
    outcomes = race(6, lambda number: ask(ids[number], body))
    assert all(isinstance(outcome, OperationView) for outcome in outcomes), outcomes
    with transaction() as session:
        rows = session.execute(
            select(Network.host_id, Network.id, Nic.mac, Address.ip)
            .join(Nic, Nic.network_id == Network.id)
            .join(Address, Address.nic_id == Nic.id)
            .where(Network.kind == "isolated")
        ).all()
    assert len(rows) == 6
    assert len({row.id for row in rows}) == len({row.host_id for row in rows})
    assert len({row.mac for row in rows}) == len({(row.id, row.ip) for row in rows}) == 6


def test_one_mac_is_given_once(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"web-{number}") for number in range(4)]
    body = AttachNicRequest(name="lan", mac="02:00:00:00:00:01")
    outcomes = race(4, lambda number: ask(ids[number], body))
    assert sorted(type(o).__name__ for o in outcomes) == ["Conflict"] * 3 + ["OperationView"]


def test_at_once_no_more_networks_are_made_than_may_be(catalogue: Catalogue, race: Race) -> None:
    ids = [active(catalogue, f"web-{number}") for number in range(5)]
    catalogue.set_quota(isolated_networks=2)

    def come(number: int) -> OperationView:
        label = f"net-{number}"
        return ask(ids[number], AttachNicRequest(name="n", network="isolated", isolated=label))

    outcomes = race(5, come)
    assert sum(isinstance(outcome, OperationView) for outcome in outcomes) == 2
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 3
    assert projects.quota(catalogue.project_id).used_isolated_networks == 2


def test_those_who_leave_at_once_meet_again_on_one_network(
    catalogue: Catalogue, race: Race
) -> None:
    catalogue.set_hosts("beta", enabled=False)
    ids = [active(catalogue, f"web-{number}") for number in range(4)]
    catalogue.set_hosts("beta", enabled=True)
    for server_id in ids:
        body = AttachNicRequest(name="back", network="isolated", isolated="backend")
        journal.complete(journal.claim(ask(server_id, body).id))
    wish = MigrateRequest(allow_power_cycle=True)

    def leave(number: int) -> OperationView:
        return accept.request(Verb.MIGRATE, ids[number], wish, project_id=None, actor="tester")

    outcomes = race(4, leave)
    assert all(isinstance(outcome, OperationView) for outcome in outcomes), outcomes
    with transaction() as session:
        rows = session.scalars(select(Network).where(Network.kind == "isolated")).all()
        assert {row.host_id for row in rows} == set(catalogue.host_ids.values())
        assert (len(rows), len({row.cidr for row in rows})) == (2, 1)
        assert all(binding.needed(session, row) for row in rows)
    for outcome in outcomes:
        held = journal.claim(outcome.id)
        journal.undoing(held, "made to fail")
        journal.undone(held)
    with transaction() as session:
        rows = session.scalars(select(Network).where(Network.kind == "isolated")).all()
        assert [row.host_id for row in rows] == [catalogue.host_ids["alpha"]]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # SQLite has one writer at a time
def test_a_network_that_is_given_up_while_another_comes_is_kept(catalogue: Catalogue) -> None:
    first, second = (active(catalogue, f"web-{number}") for number in range(2))
    body = AttachNicRequest(name="back", network="isolated", isolated="backend")
    held = journal.claim(ask(first, body).id)
    journal.undoing(held, "made to fail")
    came = Event()

    def come() -> None:
        with transaction() as session:
            isolated = select(Network).where(Network.kind == "isolated").with_for_update()
            there = session.scalars(isolated).one().id
            mac = "02:00:00:00:00:02"
            session.add(Nic(server_id=second, network_id=there, mac=mac, name="back", position=1))
            session.flush()
            came.set()
            time.sleep(0.5)

    with ThreadPoolExecutor() as others:
        coming = others.submit(come)
        assert came.wait(10)
        journal.undone(held)
        coming.result()
    with transaction() as session:
        further = select(Nic.server_id).join(Network, Network.id == Nic.network_id)
        assert session.scalars(further.where(Network.kind == "isolated")).all() == [second]
