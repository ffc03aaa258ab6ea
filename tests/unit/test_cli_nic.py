"""The commands of network cards: what they send and print."""

import json
import shlex
from typing import Any

from paper_api import PaperApi, a_server, an_operation, ident, page, run

ACTIONS = f"/servers/{ident('web')}/actions"


def a_card(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": ident(f"nic {name}"),
        "server_id": ident("web"),
        "name": name,
        "kind": "isolated",
        "network": "backend",
        "mac": "52:54:00:00:00:02",
        "address": "10.64.1.10",
        "gateway": None,
        "dns": [],
        "phase": "attached",
    } | changes


def test_cards_are_attached_and_detached(paper: PaperApi) -> None:
    for verb in ("attach-nic", "detach-nic"):
        paper.on("POST", f"{ACTIONS}/{verb}", an_operation(verb=verb))
    limits = "--inbound 1000 --outbound 250 --mac 02:00:00:00:00:01"
    fixed = f"{limits} --address 192.0.2.7/24 --gateway 192.0.2.1 --dns 192.0.2.53"
    for command, verb, body in (
        ("attach web --name own", "attach-nic", {"name": "own", "network": "project"}),
        (
            "attach web --name back --isolated backend",
            "attach-nic",
            {"name": "back", "network": "isolated", "isolated": "backend"},
        ),
        (
            f"attach web --name lan --bridge br0 --vlan 100 {fixed}",
            "attach-nic",
            {
                "name": "lan",
                "network": "vlan",
                "bridge": "br0",
                "vlan": 100,
                "address": "192.0.2.7/24",
                "gateway": "192.0.2.1",
                "dns": ["192.0.2.53"],
                "inbound_kb": 1000,
                "outbound_kb": 250,
                "mac": "02:00:00:00:00:01",
            },
        ),
        ("detach web back", "detach-nic", {"nic": "back"}),
    ):
        run("nic", *shlex.split(command))
        assert paper.bodies("POST", f"{ACTIONS}/{verb}")[-1] == body
    run("nic", "attach", "web", "--name", "lan", "--bridge", "br0", "--vlan", "4095", code=2)


def test_cards_are_listed_and_shown_with_their_server(paper: PaperApi) -> None:
    primary = a_card("primary", kind="project", network="innkeeper-1", address="10.64.0.10")
    lan = a_card("lan", kind="bridge", network="br0", address=None, dns=["192.0.2.53"])
    cards = [primary, a_card("back"), lan]
    paper.on("GET", "/servers", page(a_server(nics=cards)))
    paper.on("GET", f"/servers/{ident('web')}", a_server(nics=cards))
    lines = run("nic", "list", "web").stdout.splitlines()[1:]
    assert [line.split()[:4] for line in lines] == [
        ["primary", "attached", "project", "innkeeper-1"],
        ["back", "attached", "isolated", "backend"],
        ["lan", "attached", "bridge", "br0"],
    ]
    assert json.loads(run("nic", "list", "web", "-o", "json").stdout) == cards
    shown = run("server", "show", "web").stdout
    assert "back, 52:54:00:00:00:02, 10.64.1.10 on backend" in shown
    assert "lan, 52:54:00:00:00:02, DHCP on br0" in shown


def test_bridges_and_pools_are_allowed_on_a_host(paper: PaperApi) -> None:
    host = {
        "id": ident("alpha"),
        "name": "alpha",
        "uri": "test:///default",
        "channel": "simulated:alpha",
        "edge_address": "127.0.0.1",
        "pool_path": "/pool",
        "virt_type": "test",
        "vcpus": 4,
        "memory_mib": 4096,
        "disk_gib": 40,
        "cpu_overcommit": 1.0,
        "memory_overcommit": 1.0,
        "enabled": True,
        "reachable": True,
        "uefi": True,
        "created_at": "2026-11-01T12:00:00Z",
    }
    paper.on("GET", "/hosts", page(host))
    path = f"/hosts/{ident('alpha')}"
    paper.on("PATCH", path, host | {"bridges": ["br0", "br0.100"]})
    assert "br0, br0.100" in run("host", "bridges", "alpha", "br0", "br0.100").stdout
    run("host", "bridges", "alpha")
    assert paper.bodies("PATCH", path) == [{"bridges": ["br0", "br0.100"]}, {"bridges": []}]
    paper.on("PATCH", path, host | {"pools": {"ssd": 500}, "reserved_pools": {"ssd": 20}})
    assert "ssd 20 of 500 GiB" in run("host", "pools", "alpha", "ssd=500", "big").stdout
    assert paper.bodies("PATCH", path)[-1] == {"pools": {"ssd": 500, "big": 0}}
    run("host", "pools", "alpha", "ssd=much", code=2)
