"""Placement: the chosen host fits, wastes least, and a refusal explains itself."""

import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.placement import (
    NO_PORT,
    RULES,
    Capacity,
    Demand,
    Tie,
    place,
    require_chosen,
    waste,
)
from innkeeper.errors import ForwardPortsExhausted, NoHostFits

demands = st.builds(Demand, st.integers(1, 16), st.integers(64, 32768), st.integers(1, 500))
capacities = st.builds(
    Capacity,
    host_id=st.uuids(version=4),
    name=st.from_regex(r"[a-z]{3,8}", fullmatch=True),
    enabled=st.booleans(),
    vcpus=st.integers(1, 64),
    memory_mib=st.integers(256, 131072),
    disk_gib=st.integers(0, 2000),
    cpu_overcommit=st.sampled_from([0.5, 1.0, 1.5, 2.0, 8.0]),
    memory_overcommit=st.sampled_from([0.9, 1.0, 1.5]),
    reserved=st.builds(Demand, st.integers(0, 128), st.integers(0, 131072), st.integers(0, 2000)),
    free_ports=st.integers(0, 3),
    objections=st.sampled_from([(), ("its port is taken",), ("not this one", "nor this")]),
)
fleets = st.lists(capacities, max_size=8, unique_by=(lambda c: c.host_id, lambda c: c.name))


def host(name: str = "alpha", **changes: object) -> Capacity:
    identifier = uuid.uuid5(uuid.NAMESPACE_DNS, name)
    plain = Capacity(
        identifier,
        name,
        enabled=True,
        vcpus=8,
        memory_mib=16384,
        disk_gib=100,
        cpu_overcommit=2.0,
        memory_overcommit=1.0,
    )
    return replace(plain, **changes)


@given(demands, fleets)
def test_the_chosen_host_fits_and_wastes_least(demand: Demand, hosts: list[Capacity]) -> None:
    verdict = place(demand, hosts)
    fitting = [h for h in hosts if not any(rule(h, demand) for rule in RULES)]
    assert (verdict.chosen is None) == (not fitting)
    if verdict.chosen is None:
        return
    chosen = next(h for h in hosts if h.host_id == verdict.chosen)
    assert chosen.enabled
    assert chosen.free_ports > 0
    assert chosen.reserved.vcpus + demand.vcpus <= chosen.vcpus * chosen.cpu_overcommit
    assert demand.vcpus <= chosen.vcpus
    assert (
        chosen.reserved.memory_mib + demand.memory_mib
        <= chosen.memory_mib * chosen.memory_overcommit
    )
    assert chosen.reserved.disk_gib + demand.disk_gib <= chosen.disk_gib
    assert all(waste(chosen, demand) <= waste(h, demand) + 1e-4 for h in fitting)


@given(demands, fleets)
def test_every_host_has_an_opinion_and_a_refusal_names_them_all(
    demand: Demand, hosts: list[Capacity]
) -> None:
    verdict = place(demand, hosts)
    assert {o.host_id for o in verdict.opinions} == {h.host_id for h in hosts}
    assert all((o.refused is None) == (o.waste is not None) for o in verdict.opinions)
    if verdict.chosen is not None:
        assert require_chosen(verdict) == verdict.chosen
        return
    with pytest.raises((NoHostFits, ForwardPortsExhausted)) as refused:
        require_chosen(verdict)
    for opinion in verdict.opinions:
        assert f"{opinion.host}: {opinion.refused}" in str(refused.value)


@given(demands, fleets, st.randoms())
def test_the_order_of_hosts_does_not_matter(
    demand: Demand, hosts: list[Capacity], shuffler: object
) -> None:
    shuffled = sorted(hosts, key=lambda _: shuffler.random())  # type: ignore[attr-defined]
    assert place(demand, hosts) == place(demand, shuffled)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"enabled": False}, "the host is disabled"),
        ({"vcpus": 1}, "2 vCPUs are more than the host's 1"),
        ({"reserved": Demand(15, 0, 0)}, "2 vCPUs asked, 1 free"),
        ({"reserved": Demand(20, 0, 0)}, "2 vCPUs asked, 0 free"),
        ({"reserved": Demand(0, 16000, 0)}, "512 MiB of memory asked, 384 MiB free"),
        ({"reserved": Demand(0, 0, 99)}, "10 GiB of disk asked, 1 GiB free"),
        ({"free_ports": 0}, NO_PORT),
    ],
)
def test_each_reason_is_told_in_numbers(changes: dict[str, object], reason: str) -> None:
    (opinion,) = place(Demand(2, 512, 10), [host(**changes)]).opinions
    assert opinion.refused == reason


def test_several_reasons_of_one_host_are_all_told() -> None:
    verdict = place(Demand(2, 512, 10), [host(enabled=False, free_ports=0, disk_gib=5)])
    assert verdict.opinions[0].refused == (
        f"the host is disabled; 10 GiB of disk asked, 5 GiB free; {NO_PORT}"
    )
    assert verdict.as_dict() == {
        "chosen": None,
        "hosts": [
            {
                "host_id": str(host().host_id),
                "host": "alpha",
                "refused": verdict.opinions[0].refused,
                "waste": None,
            }
        ],
    }


def test_overcommit_lends_cpu_but_never_more_than_one_host_has() -> None:
    assert host(cpu_overcommit=2.0).free.vcpus == 16
    assert place(Demand(9, 64, 1), [host(vcpus=8, cpu_overcommit=4.0)]).chosen is None
    full = host(reserved=Demand(8, 0, 0))
    assert place(Demand(8, 64, 1), [full]).chosen == full.host_id
    assert place(Demand(8, 64, 1), [replace(full, cpu_overcommit=1.0)]).chosen is None


def test_memory_overcommit_below_one_keeps_a_reserve() -> None:
    assert place(Demand(1, 15000, 1), [host(memory_overcommit=0.9)]).chosen is None
    assert place(Demand(1, 14000, 1), [host(memory_overcommit=0.9)]).chosen is not None


def test_best_fit_fills_the_fuller_host_first_and_breaks_ties_by_name() -> None:
    fuller = host("zulu", reserved=Demand(4, 4096, 10))
    assert place(Demand(1, 512, 1), [host("alpha"), fuller]).chosen == fuller.host_id
    twins = [host("bravo"), host("alpha")]
    assert place(Demand(1, 512, 1), twins).chosen == host("alpha").host_id


def test_only_missing_ports_are_an_error_of_their_own() -> None:
    full = [host("alpha", free_ports=0), host("beta", free_ports=0)]
    with pytest.raises(ForwardPortsExhausted, match="No forward port is free on any host"):
        require_chosen(place(Demand(1, 64, 1), full))
    with pytest.raises(NoHostFits):
        require_chosen(place(Demand(1, 64, 1), [full[0], host("beta", enabled=False)]))


@given(demands, fleets, st.data())
def test_a_tie_leaves_one_host_and_says_why_of_the_others(
    demand: Demand, fleet: list[Capacity], data: st.DataObject
) -> None:
    if not fleet:
        return
    home = data.draw(st.sampled_from(fleet))
    verdict = place(demand, fleet, Tie(home.host_id, "the disk is elsewhere"))
    assert verdict.chosen in {None, home.host_id}
    assert (verdict.chosen is None) == (place(demand, [home]).chosen is None)
    for opinion in verdict.opinions:
        told = (opinion.refused or "").startswith("the disk is elsewhere")
        assert told == (opinion.host_id != home.host_id)


def test_without_hosts_the_way_out_is_named() -> None:
    with pytest.raises(NoHostFits, match="innkeeper host add"):
        require_chosen(place(Demand(1, 64, 1), []))
