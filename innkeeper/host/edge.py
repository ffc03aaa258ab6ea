"""The network edge of a host: one nftables table of ours, rendered whole and loaded atomically.

It translates guests' way out, forwards ports of the host to guests and keeps projects apart. The
project networks have libvirt's forward mode `open`, so that libvirt adds no rules of its own: in
mode `nat` it refuses forwarded connections. Schema: libnftables-json(5).
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from innkeeper.host.channel import HostChannel

FAMILY = "inet"
TABLE = "innkeeper"
# Two maps with the same keys: the JSON parser of nftables in Debian 12 (1.0.6) takes no map to
# `ipv4_addr . inet_service`. It refuses the map and crashes on a rule that uses it.
ADDRESSES = "forward_addresses"
PORTS = "forward_ports"
NO_SUCH_TABLE = "No such file or directory"
# What a guest may ask of its host: an address (67), names (53). Port 67 answers before the guest
# has an address, so the rule looks at ports only.
HOST_SERVICES = (("udp", 53), ("udp", 67), ("tcp", 53))

Expression = dict[str, Any]


class EdgeRules(BaseModel):
    """What a host's edge shall do.

    `networks` are (bridge, cidr) of every project network on the host, `isolated` the bridges of
    those without a way out; `forwards` maps a TCP port
    of the host to (guest address, guest port); `listeners` is the range of host ports that guests
    may reach although no forward is set (a sleeping server's port, where the host listens).
    """

    model_config = ConfigDict(frozen=True)

    networks: tuple[tuple[str, str], ...] = ()
    forwards: dict[int, tuple[str, int]] = Field(default_factory=dict)
    listeners: tuple[int, int] | None = None
    isolated: tuple[str, ...] = ()


def render(rules: EdgeRules) -> dict[str, Any]:
    """Return the rules as libnftables JSON that replaces our table in one transaction."""
    where = {"family": FAMILY, "table": TABLE}
    commands: list[Expression] = [
        {"metainfo": {"json_schema_version": 1}},
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},  # so that the delete cannot fail
        {"delete": {"table": {"family": FAMILY, "name": TABLE}}},
        {"add": {"table": {"family": FAMILY, "name": TABLE}}},
        {"add": {"map": {**where, **_targets(rules, ADDRESSES, "ipv4_addr", 0)}}},
        {"add": {"map": {**where, **_targets(rules, PORTS, "inet_service", 1)}}},
    ]
    for name, kind, hook, priority, chain in (
        ("prerouting", "nat", "prerouting", -100, [_translate_to_guest()]),
        ("output", "nat", "output", -100, [_translate_to_guest()]),
        ("postrouting", "nat", "postrouting", 100, _leave(rules)),
        ("forward", "filter", "forward", 0, _between(rules)),
        ("input", "filter", "input", 0, _into_host(rules)),
    ):
        base = {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        commands.append({"add": {"chain": {**where, "name": name, **base}}})
        commands += [{"add": {"rule": {**where, "chain": name, "expr": rule}}} for rule in chain]
    return {"nftables": commands}


def load(channel: HostChannel, rules: EdgeRules) -> None:
    """Replace the host's edge by `rules`, all at once; established connections go on.

    Raises:
        HostUnreachable: the host does not answer.
        CommandFailed: nft refused, or is not installed; the old rules are still in place.
    """
    channel.run(["nft", "-j", "-f", "-"], input=json.dumps(render(rules))).check()


def forwards(channel: HostChannel) -> dict[int, tuple[str, int]]:
    """Return the forwards that are in effect on the host; none when our table is not loaded.

    Raises:
        HostUnreachable: the host does not answer.
        CommandFailed: nft failed.
    """
    result = channel.run(["nft", "-j", "list", "table", FAMILY, TABLE])
    if result.returncode != 0 and NO_SUCH_TABLE in result.stderr:
        return {}
    listed = json.loads(result.check().stdout)["nftables"]
    found = [entry["map"] for entry in listed if "map" in entry]
    maps = {entry["name"]: dict(entry.get("elem", [])) for entry in found}
    ports = maps.get(PORTS, {})
    return {port: (address, ports[port]) for port, address in maps.get(ADDRESSES, {}).items()}


def remove(channel: HostChannel) -> None:
    """Remove our table from the host; its absence is fine.

    Raises:
        HostUnreachable: the host does not answer.
        CommandFailed: nft failed.
    """
    table = {"table": {"family": FAMILY, "name": TABLE}}
    document = {"nftables": [{"add": table}, {"delete": table}]}
    channel.run(["nft", "-j", "-f", "-"], input=json.dumps(document)).check()


def _targets(rules: EdgeRules, name: str, kind: str, part: int) -> Expression:
    """Return the map from a forward's port to one part of its target."""
    elements = [[port, target[part]] for port, target in sorted(rules.forwards.items())]
    empty = {"name": name, "type": "inet_service", "map": kind}
    return {**empty, "elem": elements} if elements else empty


def _translate_to_guest() -> list[Expression]:
    """Forward by the map, but only what is addressed to this host.

    A guest's connection to port 2200 of somebody else's machine must not end in a neighbour.
    """
    local = {"fib": {"result": "type", "flags": "daddr"}}
    key = {"payload": {"protocol": "tcp", "field": "dport"}}
    address, port = ({"map": {"key": key, "data": f"@{name}"}} for name in (ADDRESSES, PORTS))
    return [_match(local, "local"), {"dnat": {"family": "ip", "addr": address, "port": port}}]


def _leave(rules: EdgeRules) -> list[list[Expression]]:
    """Hide guests behind the host's address when they leave their bridge.

    The second rule is for a guest that reaches a neighbour on its own bridge over a forward: the
    answer must come back through the host.
    """
    chain = []
    for bridge, cidr in rules.networks:
        if bridge in rules.isolated:
            continue
        source = _match(_address("saddr"), _prefix(cidr))
        outside = _match(_meta("oifname"), bridge, "!=")
        back = _match(_address("daddr"), _prefix(cidr))
        chain.append([source, outside, {"masquerade": None}])
        chain.append([source, back, _translated(), {"masquerade": None}])
    return chain


def _between(rules: EdgeRules) -> list[list[Expression]]:
    """Keep networks apart: into a guest network comes only an answer or what a forward lets in."""
    bridges = [bridge for bridge, _ in rules.networks]
    if not bridges:
        return []
    forged = [
        [
            _match(_meta("iifname"), bridge),
            _match(_address("saddr"), _prefix(cidr), "!="),
            {"drop": None},
        ]
        for bridge, cidr in rules.networks
    ]
    same = [
        [_match(_meta("iifname"), bridge), _match(_meta("oifname"), bridge), {"accept": None}]
        for bridge in bridges
    ]
    shut = [
        [_match(_meta(near), bridge), _match(_meta(far), bridge, "!="), {"drop": None}]
        for bridge in rules.isolated
        for near, far in (("iifname", "oifname"), ("oifname", "iifname"))
    ]
    return [
        *shut,
        *forged,
        [_established(), {"accept": None}],
        [_translated(), {"accept": None}],
        *same,
        [_match(_meta("oifname"), {"set": bridges}), {"drop": None}],
    ]


def _into_host(rules: EdgeRules) -> list[list[Expression]]:
    """Let guests ask the host for addresses, names and echo, and for nothing else."""
    bridges = [bridge for bridge, _ in rules.networks]
    if not bridges:
        return []
    guest = _match(_meta("iifname"), {"set": bridges})
    # The gateway of another project is ours, too: its name server would tell who lives there.
    own = _match({"fib": {"result": "type", "flags": ["daddr", "iif"]}}, "local", "!=")
    networks = _match(_address("daddr"), {"set": [_prefix(cidr) for _, cidr in rules.networks]})
    foreign: list[Expression] = [guest, networks, own, {"drop": None}]
    allowed: list[list[Expression]] = [[_established()]]
    open_bridges = [bridge for bridge in bridges if bridge not in rules.isolated]
    allowed += [[guest, _port(protocol, number)] for protocol, number in HOST_SERVICES]
    allowed.append([guest, _match(_meta("l4proto"), "icmp")])
    if rules.listeners and open_bridges:
        sleeping = _port("tcp", {"range": list(rules.listeners)})
        allowed.append([_match(_meta("iifname"), {"set": open_bridges}), sleeping])
    accepted = [[*rule, {"accept": None}] for rule in allowed]
    return [foreign, *accepted, [guest, {"drop": None}]]


def _match(left: Expression, right: Any, operator: str = "==") -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}


def _meta(key: str) -> Expression:
    return {"meta": {"key": key}}


def _address(field: str) -> Expression:
    return {"payload": {"protocol": "ip", "field": field}}


def _port(protocol: str, number: Any) -> Expression:
    return _match({"payload": {"protocol": protocol, "field": "dport"}}, number)


def _prefix(cidr: str) -> Expression:
    address, _, length = cidr.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _established() -> Expression:
    states: Sequence[str] = ("established", "related")
    return {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": list(states)}}


def _translated() -> Expression:
    return {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}
