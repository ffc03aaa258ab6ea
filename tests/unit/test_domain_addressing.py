"""Networks, addresses and ports: always the lowest free one."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.addressing import (
    AddressesExhausted,
    free_address,
    free_network,
    free_port,
    gateway,
)
from innkeeper.errors import ForwardPortsExhausted

CIDR = "10.64.7.0/24"
USABLE = [f"10.64.7.{last}" for last in range(10, 255)]


@given(st.sets(st.sampled_from(USABLE), max_size=len(USABLE) - 1))
def test_the_lowest_free_address(taken: set[str]) -> None:
    chosen = free_address(CIDR, taken)
    assert chosen == next(ip for ip in USABLE if ip not in taken)
    assert IPv4Address(chosen) in IPv4Network(CIDR)
    assert chosen != gateway(CIDR)


def test_a_full_network_says_so() -> None:
    with pytest.raises(AddressesExhausted, match=r"10\.64\.7\.0/24 has no free address"):
        free_address(CIDR, USABLE)


def test_gateway_and_operators_addresses_are_never_given() -> None:
    assert gateway(CIDR) == "10.64.7.1"
    assert free_address(CIDR, []) == "10.64.7.10"


@given(st.sets(st.integers(0, 4095), max_size=200))
def test_the_lowest_free_network(taken: set[int]) -> None:
    networks = [str(n) for n in IPv4Network("10.64.0.0/12").subnets(new_prefix=24)]
    chosen = free_network("10.64.0.0/12", [networks[i] for i in taken])
    assert networks.index(chosen) == min(set(range(201)) - taken)


def test_the_range_of_networks_ends() -> None:
    assert free_network("10.9.8.0/24", []) == "10.9.8.0/24"
    with pytest.raises(AddressesExhausted, match="INNKEEPER_GUEST_NETWORKS"):
        free_network("10.9.8.0/24", ["10.9.8.0/24"])


@given(st.sets(st.integers(2200, 2299), max_size=99))
def test_the_lowest_free_port(taken: set[int]) -> None:
    assert free_port((2200, 2299), taken) == min(set(range(2200, 2300)) - taken)


def test_ports_end_with_a_clear_sentence() -> None:
    with pytest.raises(ForwardPortsExhausted, match="2200-2299 of the host are taken"):
        free_port((2200, 2299), range(2200, 2300))
