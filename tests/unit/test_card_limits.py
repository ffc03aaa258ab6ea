"""How many isolated networks a project may have, and how fast cards may be, on two hosts."""

from uuid import UUID

import libvirt
import pytest
from carded import attach, beside, plan, stands
from conftest import Catalogue
from journaled import carried
from two_hosts import Life

from innkeeper.domain.lifecycle import Phase, Status, Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import CloneRequest, MigrateRequest, ServerRequest
from innkeeper.errors import QuotaExceeded
from innkeeper.hypervisor.xml.element import parse
from innkeeper.services import accept, networks, projects, servers, survey
from innkeeper.services.planning import Foreseen, Foresight

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

COLD = MigrateRequest(allow_power_cycle=True)


def test_isolated_networks_are_within_the_quota_and_count_once_for_all_hosts(
    catalogue: Catalogue,
) -> None:
    life = Life(catalogue)
    attach(life, "back", isolated="backend")
    life.catalogue.set_quota(isolated_networks=2)
    attach(life, "more", isolated="backend")
    attach(life, "two", isolated="second")
    body = AttachNicRequest(name="three", network="isolated", isolated="third")
    with pytest.raises(QuotaExceeded, match="2 of 2 isolated networks in use, 1 more asked"):
        life.ask(Verb.ATTACH_NIC, body)
    life.do(Verb.MIGRATE, COLD)
    beside(life)
    quota = projects.quota(life.catalogue.project_id)
    assert (quota.isolated_networks, quota.used_isolated_networks) == (2, 2)
    assert plan(life, Verb.DETACH_NIC, DetachNicRequest(nic="two")).quota.isolated_networks == 1
    assert plan(life, Verb.DETACH_NIC, DetachNicRequest(nic="more")).quota.isolated_networks == 0
    life.do(Verb.DETACH_NIC, DetachNicRequest(nic="two"))
    life.do(Verb.ATTACH_NIC, body)
    projects.set_quota(life.catalogue.project_id, isolated_networks=-1)
    assert plan(life, Verb.DELETE).quota.isolated_networks is None


def limits(life: Life, host: str) -> list[tuple[str | None, str | None]]:
    """Return the limits, inbound and outbound, of each card that the domain is defined with."""
    domain = life.conn(host).lookupByUUIDString(str(life.server_id))
    found = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)).iterfind("devices/interface")
    ways = [(card.find("bandwidth/inbound"), card.find("bandwidth/outbound")) for card in found]
    return [
        (
            inbound.get("average") if inbound is not None else None,
            outbound.get("average") if outbound is not None else None,
        )
        for inbound, outbound in ways
    ]


def test_limits_go_along_and_are_tried_at_each_host(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[UUID] = []
    monkeypatch.setattr(networks, "require_shaping", tried.append)
    life = Life.__new__(Life)
    life.catalogue, ids = catalogue, catalogue.host_ids
    made = carried(catalogue.create("slow", inbound_kb=1000, outbound_kb=250))
    assert made.phase is Phase.SUCCEEDED, made.error
    life.server_id = made.server_id
    assert tried == [ids["alpha"]]
    assert limits(life, "alpha") == [("1000", "250")]
    attach(life, "back", isolated="backend", outbound_kb=7)
    cards = life.view.nics
    assert [(card.inbound_kb, card.outbound_kb) for card in cards] == [(1000, 250), (None, 7)]
    tried.clear()
    life.do(Verb.MIGRATE, COLD)
    stands(life, "beta", cards)
    assert tried == [ids["beta"]] * 2
    assert limits(life, "beta") == [("1000", "250"), (None, "7")]
    life.do(Verb.REBUILD)
    assert limits(life, "beta") == [("1000", "250"), (None, "7")]
    life.do(Verb.CLONE, CloneRequest(name="twin", mode="full"))
    twin = Life.__new__(Life)
    twin.catalogue = catalogue
    (twin.server_id,) = (one.id for one in servers.page().items if one.name == "twin")
    assert limits(twin, "beta") == [("1000", "250")]


def test_a_host_that_cannot_limit_takes_no_server_with_a_limit(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(_: UUID) -> None:
        raise networks.ShapingUnsupported("it cannot")

    life = Life(catalogue)
    monkeypatch.setattr(networks, "require_shaping", unable)
    ended = carried(catalogue.create("slow", outbound_kb=250))
    assert (ended.phase, ended.error) == (Phase.FAILED, "it cannot")
    assert survey.audit() == []
    with pytest.raises(Foreseen) as seen:
        accept.create_server(
            ServerRequest(name="slower", plan="tiny", image=catalogue.image, outbound_kb=250),
            project_id=catalogue.project_id,
            actor="me",
            foresight=Foresight(dry_run=True),
        )
    assert any("cannot limit bandwidth" in warning for warning in seen.value.plan.warnings)
    assert life.view.status is Status.ACTIVE
