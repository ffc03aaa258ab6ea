"""Network cards in guests that tell what they see; the tests are one life, in their order."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from benchmarks.create_steps import seconds_between
from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.host import shaping
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.hypervisor import network, nics
from innkeeper.hypervisor.connection import connect

DEATH_SECONDS = 120.0
BACKEND = {"name": "back", "network": "isolated", "isolated": "backend"}
WIRE = "br0.100"
FIXED = "192.0.2.7/24"


class Life:
    """Two servers on one host, and what is done to them."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        asked = [estate.create(unique("nic")) for _ in range(2)]
        self.one, self.two = (estate.done(operation) for operation in asked)
        assert self.one["host"] == self.two["host"], "small servers are placed together"
        self.home = self.one["host"]
        self.other = {"lab1": "lab2", "lab2": "lab1"}[self.home]
        self.boots = [estate.boot_id(server) for server in (self.one, self.two)]

    def sh(self, server: Json, script: str) -> str:
        return self.estate.login(server, ["sudo", "sh", "-c", script], timeout=60.0).strip()

    def done(self, operation: Json) -> Json:
        server = self.estate.done(operation)
        told = "; ".join(
            f"{step['name']} {seconds_between(step['begun_at'], step['ended_at']):.2f} s: "
            f"{step['detail']}"
            for step in self.estate.operation(operation)["steps"]
        )
        print(f"{operation['verb']} ({told})")  # noqa: T201 - measured
        assert self.estate.audit() == []
        return server

    def do(self, server: Json, verb: str, **body: Any) -> Json:
        return self.done(self.estate.act(server, verb, **body))

    def doomed(self, server: Json, verb: str, step: str, **body: Any) -> Json:
        """Have a verb's worker die after a step, and another one go on; return the server."""
        with self.estate.dying(verb, f"{step}-after"):
            return self.do(server, verb, **body)

    def card(self, server: Json, name: str = "back") -> Json:
        found: Json = {nic["name"]: nic for nic in self.estate.server(server)["nics"]}[name]
        return found

    def link(self, server: Json, name: str = "back") -> str:
        """Return the name of a card in its guest, if it has it."""
        mac = self.card(server, name)["mac"]
        path = self.sh(server, f"grep -l {mac} /sys/class/net/*/address || true")
        return path.split("/")[4] if path else ""

    def has_address(self, server: Json, name: str = "back") -> bool:
        found = self.sh(server, f"ip -4 addr show dev {self.link(server, name) or 'lo'}")
        address = self.card(server, name)["address"]
        return f"inet {address.partition('/')[0]}/" in found

    def told(self, server: Json, name: str = "back") -> None:
        eventually(lambda: self.has_address(server, name), what=f"the address of {name}")

    def hears(self, server: Json, address: str) -> bool:
        return "yes" in self.sh(server, f"ping -c 2 -W 2 {address} >/dev/null && echo yes || true")

    def isolated(self) -> list[str]:
        conn = connect(self.estate.host(self.home).uri)
        return [name for name in network.network_names(conn) if "-iso-" in name]

    def channel(self, host: str | None = None) -> HostChannel:
        return open_channel(self.estate.host(host or self.home).channel_address)

    def on_host(self, *argv: str, host: str | None = None) -> str:
        return self.channel(host).run(list(argv)).check().stdout

    def allow(self, host: str) -> None:
        """Let cards be on the bridge of these tests."""
        hosts = {found["name"]: found["id"] for found in self.estate.client.items("/hosts")}
        self.estate.client.patch(f"/hosts/{hosts[host]}", {"bridges": [WIRE]})

    def make_bridge(self, host: str) -> None:
        self.on_host("ip", "link", "add", WIRE, "type", "bridge", host=host)
        self.on_host("ip", "link", "set", WIRE, "up", host=host)


@pytest.fixture(scope="module")
def life(estate: Estate) -> Iterator[Life]:
    estate.clear()
    begun = time.monotonic()
    alive = Life(estate)
    print(f"two servers in {time.monotonic() - begun:.1f} s")  # noqa: T201 - measured
    yield alive
    estate.clear()


def test_two_servers_meet_on_a_network_without_a_way_out(life: Life) -> None:
    path = f"/servers/{life.one['id']}/actions/attach-nic"
    plan = life.estate.client.post(path, BACKEND, dry_run=True)
    assert ([c["effect"] for c in plan["changes"]], plan["interruption"]) == (["live"], "none")
    assert life.isolated() == []
    life.done(life.estate.client.post(path, BACKEND, plan=plan["digest"]))
    life.doomed(life.two, "attach-nic", "plug-nic", **BACKEND)
    for server in (life.one, life.two):
        life.told(server)
        routes = life.sh(server, "ip route").splitlines()
        ways_out = [route for route in routes if route.startswith("default")]
        assert len(ways_out) == 1
        assert "dev eth0" in ways_out[0]
    assert len(life.isolated()) == 1
    mine, theirs = (life.card(server)["address"] for server in (life.one, life.two))
    assert life.hears(life.one, theirs)
    assert life.hears(life.two, mine)
    gateway = f"{theirs.rpartition('.')[0]}.1"
    assert life.hears(life.one, life.two["address"]), "over the project's own network"
    life.sh(
        life.one, f"ip route add {life.two['address']}/32 via {gateway} dev {life.link(life.one)}"
    )
    assert not life.hears(life.one, life.two["address"]), "nothing leads out of it"
    life.sh(life.one, f"ip route del {life.two['address']}/32")
    assert [life.estate.boot_id(server) for server in (life.one, life.two)] == life.boots


def test_a_bridge_has_to_be_allowed_and_there(life: Life) -> None:
    wanted = {"name": "lan", "network": "vlan", "bridge": "br0", "vlan": 100, "address": FIXED}
    with pytest.raises(CliFailure, match=r"does not allow network cards on bridge br0\.100"):
        life.estate.act(life.one, "attach-nic", **wanted)
    life.allow(life.home)
    ended = life.estate.wait(life.estate.act(life.one, "attach-nic", **wanted))
    assert "has no bridge br0.100, though it is allowed" in ended["error"]
    life.make_bridge(life.home)
    life.do(life.one, "attach-nic", **wanted)
    assert "vnet" in life.on_host("ip", "-o", "link", "show", "master", WIRE)
    eventually(lambda: life.link(life.one, "lan"), what="the card in the guest")
    assert not life.has_address(life.one, "lan"), "its guest is told at a first boot"


def test_a_second_card_on_the_own_network_gets_the_address_asked_for(life: Life) -> None:
    wanted = f"{life.two['address'].rpartition('.')[0]}.77"
    with pytest.raises(CliFailure, match="is taken"):
        life.estate.act(life.two, "attach-nic", name="own", address=life.one["address"])
    mac = "02:00:00:00:00:77"
    life.do(life.two, "attach-nic", name="own", address=wanted, mac=mac)
    assert (life.card(life.two, "own")["address"], life.card(life.two, "own")["mac"]) == (
        wanted,
        mac,
    )
    life.told(life.two, "own")
    assert life.hears(life.one, wanted)
    life.do(life.two, "detach-nic", nic="own")
    assert not life.hears(life.one, wanted)
    assert life.estate.boot_id(life.two) == life.boots[1]


def test_a_limit_is_kept_or_refused_whole(life: Life) -> None:
    obstacle = shaping.obstacle(life.channel())
    wanted = {"name": "slow", "network": "isolated", "isolated": "slow", "outbound_kb": 100}
    ended = life.estate.wait(life.estate.act(life.two, "attach-nic", **wanted))
    assert life.estate.audit() == []
    if obstacle is None:
        assert ended["phase"] == "succeeded", ended["error"]
        life.do(life.two, "detach-nic", nic="slow")
    else:
        assert f"cannot limit bandwidth ({obstacle})" in ended["error"]
    assert [nic["name"] for nic in life.estate.server(life.two)["nics"]] == ["primary", "back"]
    assert [name for name in life.isolated() if name.endswith("-slow")] == []


def test_cards_are_there_after_a_night_and_a_stop_and_a_rebuild_knows_them(life: Life) -> None:
    life.do(life.two, "suspend")
    life.do(life.two, "resume")
    assert life.hears(life.one, life.card(life.two)["address"])
    link = life.link(life.two)
    life.do(life.two, "stop")
    life.do(life.two, "start")
    life.told(life.two)
    assert life.link(life.two) == link
    rebuilt = life.do(life.one, "rebuild")
    assert [nic["name"] for nic in rebuilt["nics"]] == ["primary", "back", "lan"]
    life.told(life.one)
    life.told(life.one, "lan")
    assert life.hears(life.one, life.card(life.two)["address"])


def test_a_card_on_a_bridge_moves_live_and_an_isolated_network_ends_at_its_host(
    life: Life,
) -> None:
    with pytest.raises(CliFailure, match=rf"no bridge {WIRE} here for its network card lan"):
        life.estate.act(life.one, "migrate")
    life.allow(life.other)
    ended = life.estate.wait(life.estate.act(life.one, "migrate"))
    assert "has no bridge br0.100, though it is allowed" in ended["error"]
    assert life.estate.audit() == []
    life.make_bridge(life.other)
    boot, link = life.estate.boot_id(life.one), life.link(life.one)
    life.one = life.do(life.one, "migrate", mode="live")
    assert (life.one["host"], life.estate.boot_id(life.one)) == (life.other, boot)
    assert "vnet" in life.on_host("ip", "-o", "link", "show", "master", WIRE, host=life.other)
    assert life.link(life.one) == link
    for name in ("back", "lan"):
        assert life.has_address(life.one, name)
    assert not life.hears(life.one, life.card(life.two)["address"])


def test_a_killed_detachment_is_resumed_and_the_network_goes_with_its_last_card(
    life: Life,
) -> None:
    boot = life.estate.boot_id(life.one)
    mac = life.card(life.one)["mac"]
    life.doomed(life.one, "detach-nic", "unplug-nic", nic="back")
    conn = connect(life.estate.host(life.one["host"]).uri)
    assert mac not in nics.macs(conn, UUID(life.one["id"]))
    assert life.sh(life.one, f"grep -l {mac} /sys/class/net/*/address || true") == ""
    assert life.estate.boot_id(life.one) == boot
    assert len(life.isolated()) == 1, "the other server is still on it"
    life.do(life.two, "delete")
    assert life.isolated() == []
    life.do(life.one, "delete")
    assert life.estate.audit() == []
    for host in (life.home, life.other):
        life.on_host("ip", "link", "del", WIRE, host=host)
