"""What may be asked of network cards, and where they are plugged in."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from innkeeper.domain.cards import (
    FIRST_SLOT,
    MOST,
    address_on,
    free_position,
    operators_bridge,
    own_mac,
    require_address,
    slot,
)
from innkeeper.domain.cloudinit import FurtherCard, Identity, network_config
from innkeeper.domain.nicspecs import AttachNicRequest
from innkeeper.errors import Conflict, InvalidRequest

CIDR = "10.64.3.0/24"
IDENTITY = Identity("i", "web", "debian", (), host_key_private="", host_key_public="")


@given(st.sets(st.integers(1, MOST - 1)))
def test_a_card_gets_a_place_and_a_slot_of_its_own(taken: set[int]) -> None:
    if len(taken) == MOST - 1:
        with pytest.raises(Conflict, match=f"{MOST} network cards at most"):
            free_position(taken)
        return
    place = free_position(taken)
    assert place not in taken
    assert 0 < place < MOST
    assert FIRST_SLOT < slot(place) < 0x20
    assert slot(place) not in {slot(other) for other in taken}


@given(st.binary(min_size=6, max_size=6))
def test_a_mac_is_taken_if_it_is_local_and_unicast(octets: bytes) -> None:
    mac = ":".join(f"{octet:02X}" for octet in octets)
    if octets[0] & 3 == 2:
        assert own_mac(mac) == mac.lower()
    else:
        with pytest.raises(ValueError, match="locally administered"):
            own_mac(mac)


@given(st.ip_addresses(v=4, network="10.64.2.0/23"), st.sets(st.integers(2, 254)))
def test_an_address_is_a_free_host_of_its_network(wanted: IPv4Address, used: set[int]) -> None:
    taken = {str(IPv4Network(CIDR)[number]) for number in used}
    usable = wanted in IPv4Network(CIDR) and 2 <= int(wanted) % 256 <= 254
    if usable and str(wanted) not in taken:
        assert require_address(CIDR, str(wanted), taken) == str(wanted)
    else:
        with pytest.raises((InvalidRequest, Conflict)):
            require_address(CIDR, str(wanted), taken)


def test_without_a_wish_it_is_the_lowest_free_address() -> None:
    assert address_on(CIDR, None, {"10.64.3.10"}) == "10.64.3.11"
    assert address_on(CIDR, "10.64.3.5", ()) == "10.64.3.5"


@pytest.mark.parametrize("name", ["ik-1b9d6bcd", "virbr0"])
def test_bridges_that_keep_tenants_apart_are_no_operators(name: str) -> None:
    with pytest.raises(ValueError, match="own networks"):
        operators_bridge(name)
    assert operators_bridge("br0.100") == "br0.100"


@pytest.mark.parametrize(
    ("fields", "wire"),
    [
        ({}, None),
        ({"address": "10.64.3.7", "mac": "02:00:00:00:00:0A"}, None),
        ({"network": "isolated", "isolated": "backend"}, None),
        ({"network": "bridge", "bridge": "br0"}, "br0"),
        ({"network": "vlan", "bridge": "br0", "vlan": 4094}, "br0.4094"),
        (
            {
                "network": "bridge",
                "bridge": "br0",
                "address": "192.0.2.7/24",
                "gateway": "192.0.2.1",
                "dns": ["192.0.2.53"],
            },
            "br0",
        ),
    ],
)
def test_what_fits_together_is_taken(fields: dict[str, Any], wire: str | None) -> None:
    assert AttachNicRequest(name="lan", **fields).wire == wire


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"network": "isolated"}, "isolated is needed"),
        ({"isolated": "backend"}, "isolated does not go with network 'project'"),
        ({"network": "bridge"}, "bridge is needed"),
        ({"network": "vlan", "bridge": "br0"}, "vlan is needed"),
        ({"network": "vlan", "bridge": "br0", "vlan": 4095}, "less than or equal to 4094"),
        ({"network": "vlan", "bridge": "br0", "vlan": 0}, "greater than or equal to 1"),
        ({"network": "vlan", "bridge": "averylongbridge", "vlan": 12}, "longer than the 15"),
        ({"network": "bridge", "bridge": "../br0"}, "pattern"),
        ({"address": "10.64.3.7/24"}, "address"),
        ({"gateway": "10.64.3.1"}, "told by DHCP"),
        ({"network": "bridge", "bridge": "br0", "dns": ["192.0.2.1"]}, "need an address"),
        ({"network": "bridge", "bridge": "br0", "address": "192.0.2.7"}, "with its prefix"),
        ({"network": "bridge", "bridge": "br0", "address": "192.0.2.0/24"}, "a host's"),
        (
            {
                "network": "bridge",
                "bridge": "br0",
                "address": "192.0.2.7/24",
                "gateway": "198.51.100.1",
            },
            "not a neighbour",
        ),
        ({"mac": "00:16:3e:00:00:01"}, "locally administered"),
        ({"mac": "52-54-00-00-00-01"}, "no MAC"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        AttachNicRequest(name="lan", **fields)


def test_a_first_boot_is_told_of_every_card() -> None:
    assert network_config(IDENTITY) is None
    cards = (
        FurtherCard("back", "52:54:00:00:00:02"),
        FurtherCard("lan", "52:54:00:00:00:03", "192.0.2.7/24", "192.0.2.1", ["192.0.2.53"]),
    )
    known = Identity(**{**vars(IDENTITY), "mac": "52:54:00:00:00:01", "cards": cards})
    told = yaml.safe_load(network_config(known) or "")["ethernets"]
    assert told == {
        "primary": {"match": {"macaddress": "52:54:00:00:00:01"}, "dhcp4": True},
        "back": {
            "match": {"macaddress": "52:54:00:00:00:02"},
            "dhcp4": True,
            "dhcp4-overrides": {"use-routes": False, "use-dns": False},
        },
        "lan": {
            "match": {"macaddress": "52:54:00:00:00:03"},
            "addresses": ["192.0.2.7/24"],
            "routes": [{"to": "0.0.0.0/0", "via": "192.0.2.1"}],
            "nameservers": {"addresses": ["192.0.2.53"]},
        },
    }
