import json
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.host import edge
from innkeeper.host.channel import CommandFailed, CommandResult, open_channel
from innkeeper.host.edge import EdgeRules

NETWORKS = (("ik-aaaa0001", "10.64.1.0/24"), ("ik-bbbb0002", "10.64.2.0/24"))
RULES = EdgeRules(
    networks=NETWORKS,
    forwards={2201: ("10.64.2.5", 8080), 2200: ("10.64.1.5", 22)},
    listeners=(2200, 2299),
)
ports = st.integers(min_value=1, max_value=65535)
addresses = st.ip_addresses(v=4, network=str(IPv4Network("10.64.0.0/12"))).map(str)


def commands(rules: EdgeRules) -> list[dict[str, Any]]:
    return edge.render(rules)["nftables"]


def added(rules: EdgeRules, kind: str) -> list[dict[str, Any]]:
    return [c["add"][kind] for c in commands(rules) if kind in c.get("add", {})]


def rules_of(rules: EdgeRules, chain: str) -> list[list[dict[str, Any]]]:
    return [rule["expr"] for rule in added(rules, "rule") if rule["chain"] == chain]


def matched(rule: list[dict[str, Any]], key: str) -> Any:
    """Return what the rule compares the meta key with."""
    for expression in rule:
        match = expression.get("match", {})
        if match.get("left") == {"meta": {"key": key}}:
            return match["right"]
    return None


def test_replaces_the_whole_table_in_one_document() -> None:
    first = [next(iter(command)) for command in commands(RULES)[:4]]
    assert first == ["metainfo", "add", "delete", "add"]
    assert all(entry["table"] == "innkeeper" for entry in added(RULES, "rule"))
    assert all(entry["family"] == "inet" for entry in added(RULES, "chain"))


def test_is_the_same_whatever_order_the_forwards_came_in() -> None:
    turned = RULES.model_copy(update={"forwards": dict(reversed(RULES.forwards.items()))})
    assert json.dumps(edge.render(turned)) == json.dumps(edge.render(RULES))


def test_keeps_targets_in_two_maps_that_nftables_of_debian_12_can_parse() -> None:
    maps = {entry["name"]: entry for entry in added(RULES, "map")}
    assert maps["forward_addresses"]["elem"] == [[2200, "10.64.1.5"], [2201, "10.64.2.5"]]
    assert maps["forward_ports"]["elem"] == [[2200, 22], [2201, 8080]]
    assert all(isinstance(entry["map"], str) for entry in maps.values())


@pytest.mark.parametrize("chain", ["prerouting", "output"])
def test_translates_only_what_is_addressed_to_the_host(chain: str) -> None:
    (rule,) = rules_of(RULES, chain)
    assert rule[0]["match"]["right"] == "local"
    assert rule[0]["match"]["left"]["fib"]["flags"] == "daddr"
    assert "dnat" in rule[1]


def test_masquerades_every_network_on_its_way_out() -> None:
    leaving = [rule for rule in rules_of(RULES, "postrouting") if matched(rule, "oifname")]
    assert [matched(rule, "oifname") for rule in leaving] == [bridge for bridge, _ in NETWORKS]
    assert all(rule[-1] == {"masquerade": None} for rule in leaving)


def test_drops_the_rest_into_guest_networks_as_the_last_word() -> None:
    forward = rules_of(RULES, "forward")
    assert matched(forward[-1], "oifname") == {"set": [bridge for bridge, _ in NETWORKS]}
    assert forward[-1][-1] == {"drop": None}


def test_drops_forged_senders_before_it_accepts_anything() -> None:
    verdicts = [rule[-1] for rule in rules_of(RULES, "forward")]
    assert verdicts[:2] == [{"drop": None}, {"drop": None}]
    assert {"accept": None} not in verdicts[:2]


def test_an_isolated_network_has_no_way_out_in_or_to_listeners() -> None:
    shut, other = (bridge for bridge, _ in NETWORKS)
    rules = RULES.model_copy(update={"isolated": (shut,)})
    leaving = [rule for rule in rules_of(rules, "postrouting") if matched(rule, "oifname")]
    assert [matched(rule, "oifname") for rule in leaving] == [other]
    first = rules_of(rules, "forward")[:2]
    assert [(matched(r, "iifname"), matched(r, "oifname")) for r in first] == [(shut, shut)] * 2
    operators = [[e["match"]["op"] for e in rule if "match" in e] for rule in first]
    assert sorted(operators) == [["==", "!="], ["==", "!="]]
    assert {rule[0]["match"]["left"]["meta"]["key"] for rule in first} == {"iifname", "oifname"}
    assert all(rule[-1] == {"drop": None} for rule in first)
    sleeping = [rule for rule in rules_of(rules, "input") if "2299" in json.dumps(rule)]
    assert [matched(rule, "iifname") for rule in sleeping] == [{"set": [other]}]


def test_lets_guests_reach_listeners_only_when_there_are_some() -> None:
    without = RULES.model_copy(update={"listeners": None})
    assert "[2200, 2299]" in json.dumps(rules_of(RULES, "input"))
    assert "[2200, 2299]" not in json.dumps(edge.render(without))


def test_without_networks_filters_nothing() -> None:
    rules = EdgeRules()
    assert rules_of(rules, "forward") == []
    assert rules_of(rules, "input") == []
    assert all("elem" not in entry for entry in added(rules, "map"))


@given(st.dictionaries(ports, st.tuples(addresses, ports), max_size=20))
def test_every_forward_is_in_both_maps(forwards: dict[int, tuple[str, int]]) -> None:
    maps = {e["name"]: dict(e.get("elem", [])) for e in added(EdgeRules(forwards=forwards), "map")}
    found = {
        port: (address, maps["forward_ports"][port])
        for port, address in maps["forward_addresses"].items()
    }
    assert found == forwards


def test_reads_back_what_was_loaded(home: Path) -> None:
    channel = open_channel("simulated:one")
    assert edge.forwards(channel) == {}
    edge.load(channel, RULES)
    edge.load(channel, RULES)
    assert edge.forwards(channel) == RULES.forwards
    assert edge.forwards(open_channel("simulated:other")) == {}
    edge.remove(channel)
    edge.remove(channel)
    assert edge.forwards(channel) == {}


class Refusing:
    """A host whose nft refuses everything."""

    def run(self, argv: list[str], **_: Any) -> CommandResult:
        return CommandResult(tuple(argv), 1, "", "Error: syntax error\n")


def test_a_refusal_is_an_error_and_not_an_empty_edge() -> None:
    with pytest.raises(CommandFailed, match="syntax error"):
        edge.forwards(Refusing())  # type: ignore[arg-type]
    with pytest.raises(CommandFailed, match="syntax error"):
        edge.load(Refusing(), RULES)  # type: ignore[arg-type]
