"""Servers with further network cards on two simulated hosts."""

from collections.abc import Collection
from typing import Any

import pytest
from two_hosts import NOTHING, Life

from innkeeper.db.models import Address, Network, Nic
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.hypervisor import network, nics
from innkeeper.services import accept, survey
from innkeeper.services.planning import Foreseen, Foresight
from innkeeper.services.views import ChangePlan, NicView


def attach(life: Life, name: str, **fields: Any) -> NicView:
    if "isolated" in fields:
        fields["network"] = "isolated"
    life.do(Verb.ATTACH_NIC, AttachNicRequest(name=name, **fields))
    return life.view.nics[-1]


def beside(
    life: Life, name: str = "db", isolated: str | None = "backend", host: str = "alpha"
) -> Life:
    """Return another server, perhaps on the isolated network of its host."""
    other = Life.__new__(Life)
    other.catalogue = life.catalogue
    life.catalogue.set_hosts("beta", enabled=host == "beta")
    other.server_id = other.create(name)
    life.catalogue.set_hosts("beta", enabled=True)
    assert other.view.host == host
    if isolated:
        attach(other, "b", isolated=isolated)
    return other


def isolated(life: Life, host: str) -> list[str]:
    return [name for name in network.network_names(life.conn(host)) if "-iso-" in name]


def told(life: Life, host: str) -> set[str]:
    """Return the MACs that DHCP knows on a host."""
    conn = life.conn(host)
    ours = [name for name in network.network_names(conn) if name.startswith("innkeeper-")]
    return {entry.mac for name in ours for entry in network.dhcp_hosts(conn, name)}


def stands(life: Life, home: str, cards: Collection[NicView]) -> None:
    """Assert that the server has these cards, on one host, and that nothing is on the other."""
    away = {"alpha": "beta", "beta": "alpha"}[home]
    assert (life.view.host, life.view.nics) == (home, list(cards))
    macs = {card.mac for card in cards}
    assert nics.macs(life.conn(home), life.server_id, defined=True) == macs
    assert told(life, home) >= {card.mac for card in cards if card.kind != "bridge"}
    assert told(life, away) & macs == set()
    assert life.here(away) == NOTHING
    with transaction() as session:
        rows = session.query(Nic, Network).join(Network, Network.id == Nic.network_id)
        places = {row.host_id for nic, row in rows if nic.server_id == life.server_id}
        strays = session.query(Address).join(Nic, Nic.id == Address.nic_id)
        assert all(a.network_id == session.get_one(Nic, a.nic_id).network_id for a in strays)
    assert places == {life.catalogue.host_ids[home]}
    assert survey.audit() == []


def plan(life: Life, verb: Verb, body: Any = None) -> ChangePlan:
    with pytest.raises(Foreseen) as seen:
        accept.request(
            verb,
            life.server_id,
            body,
            project_id=None,
            actor="me",
            foresight=Foresight(dry_run=True),
        )
    return seen.value.plan
