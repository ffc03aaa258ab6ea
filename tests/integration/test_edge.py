"""The edge on a real kernel: guests are network namespaces behind bridges inside a lab host.

us (10.88.i.1) -- edge0 (10.88.i.2) [lab host] ik-test1 -- guests one, two (10.64.1.0/24)
                                               ik-test2 -- guest three     (10.64.2.0/24)
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from innkeeper.host import edge
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.host.edge import EdgeRules
from innkeeper.lab.fleet import Lab
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings

pytestmark = pytest.mark.lab
FIRST_INDEX = 110
PORT = 8080
QUICK = 1.5  # seconds; a dropped packet is told from an answer by them
NETWORKS = (("ik-test1", "10.64.1.0/24"), ("ik-test2", "10.64.2.0/24"))
GUESTS = {"one": (1, 5), "two": (1, 6), "three": (2, 5)}  # network, last byte
# Says its name and whom it sees, then echoes; runs inside a guest.
SERVER = """
import socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(f"{sys.argv[1]} {self.client_address[0]}\\n".encode())
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
with Server(("0.0.0.0", int(sys.argv[2])), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as s:
        print(s.makefile().readline().strip())
except TimeoutError:
    print("dropped")
except OSError as error:
    print(type(error).__name__)
"""


def address(guest: str) -> str:
    network, last = GUESTS[guest]
    return f"10.64.{network}.{last}"


@dataclass
class Site:
    """A lab host with guests."""

    channel: HostChannel
    layout: HostLayout
    edge: str
    servers: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def outside(self) -> str:
        """Our address on the cable."""
        return self.edge.removesuffix("2") + "1"

    def run(self, *argv: str) -> None:
        self.channel.run(argv).check()

    def add_guest(self, name: str) -> None:
        network, _ = GUESTS[name]
        self.run("ip", "netns", "add", name)
        self.run("ip", "link", "add", f"v-{name}", "type", "veth", "peer", "eth0", "netns", name)
        self.run("ip", "link", "set", f"v-{name}", "master", f"ik-test{network}", "up")
        self.run("ip", "-n", name, "link", "set", "lo", "up")
        self.run("ip", "-n", name, "addr", "add", f"{address(name)}/24", "dev", "eth0")
        self.run("ip", "-n", name, "link", "set", "eth0", "up")
        self.run("ip", "-n", name, "route", "add", "default", "via", f"10.64.{network}.1")
        argv = ["ip", "netns", "exec", name, sys.executable, "-I", "-c", SERVER, name, str(PORT)]
        server = subprocess.Popen(self.layout.enter(argv), stdout=subprocess.PIPE)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"

    def asks(self, guest: str, target: str, port: int) -> str:
        """Return what a guest hears when it connects: an answer, "dropped" or the refusal."""
        client = [sys.executable, "-I", "-c", CLIENT, target, str(port), str(QUICK)]
        return self.channel.run(["ip", "netns", "exec", guest, *client]).check().stdout.strip()

    def close(self) -> None:
        for server in self.servers:
            server.kill()
            server.wait(10)
            assert server.stdout is not None
            server.stdout.close()


def ask(target: str, port: int) -> str:
    """Connect from our side and return the first line."""
    with socket.create_connection((target, port), QUICK) as connection:
        return connection.makefile().readline().strip()


@contextmanager
def listening(host: str, port: int) -> Iterator[None]:
    """Answer "outside" and whom we see, on our side."""

    def serve() -> None:
        while True:
            try:
                connection, peer = server.accept()
            except OSError:
                return
            with closing(connection):
                connection.sendall(f"outside {peer[0]}\n".encode())

    with socket.create_server((host, port)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    home = Path(tempfile.mkdtemp(prefix="ik-edge-"))
    patch = pytest.MonkeyPatch()
    patch.setenv("INNKEEPER_HOME", str(home))
    settings.cache_clear()
    lab = Lab(home, first_index=FIRST_INDEX)
    try:
        (host,) = lab.up(1)
        channel = open_channel(host.channel_address)
        site = Site(channel, HostLayout(home / "lab", "lab1"), host.edge_address)
        for number, (bridge, _) in enumerate(NETWORKS, 1):
            site.run("ip", "link", "add", bridge, "type", "bridge")
            site.run("ip", "addr", "add", f"10.64.{number}.1/24", "dev", bridge)
            site.run("ip", "link", "set", bridge, "up")
        for guest in GUESTS:
            site.add_guest(guest)
        yield site
        site.close()
    finally:
        patch.undo()
        settings.cache_clear()
        lab.down(purge=True)
        shutil.rmtree(home)


@pytest.fixture
def loaded(site: Site) -> Iterator[EdgeRules]:
    forwards = {2201: (address("one"), PORT), 2203: (address("three"), PORT)}
    rules = EdgeRules(networks=NETWORKS, forwards=forwards, listeners=(2200, 2299))
    edge.load(site.channel, rules)
    yield rules
    edge.remove(site.channel)


def test_without_an_edge_no_port_leads_anywhere(site: Site) -> None:
    assert edge.forwards(site.channel) == {}
    with pytest.raises(ConnectionRefusedError):
        ask(site.edge, 2201)


def test_forwards_lead_to_guests(site: Site, loaded: EdgeRules) -> None:
    assert ask(site.edge, 2201) == f"one {site.outside}"
    assert ask(site.edge, 2203) == f"three {site.outside}"
    with pytest.raises(ConnectionRefusedError):
        ask(site.edge, 2202)
    assert edge.forwards(site.channel) == loaded.forwards


def test_the_host_itself_reaches_its_forwards(site: Site, loaded: EdgeRules) -> None:
    client = [sys.executable, "-I", "-c", CLIENT, site.edge, "2201", str(QUICK)]
    assert site.channel.run(client).check().stdout.startswith("one ")


def test_loading_again_cuts_no_connection(site: Site, loaded: EdgeRules) -> None:
    with socket.create_connection((site.edge, 2201), QUICK) as connection:
        stream = connection.makefile("rw")
        assert stream.readline().startswith("one")
        edge.load(site.channel, loaded)
        edge.load(site.channel, loaded.model_copy(update={"forwards": {}}))
        print("still there", file=stream, flush=True)
        assert stream.readline() == "still there\n"
    assert edge.forwards(site.channel) == {}
    with pytest.raises(ConnectionRefusedError):
        ask(site.edge, 2201)


def test_loading_twice_is_the_same_as_once(site: Site, loaded: EdgeRules) -> None:
    listed = ["nft", "--stateless", "list", "ruleset"]
    once = site.channel.run(listed).check().stdout
    edge.load(site.channel, loaded)
    assert site.channel.run(listed).check().stdout == once
    assert "dnat ip to" in once


def test_keeps_projects_apart(site: Site, loaded: EdgeRules) -> None:
    assert site.asks("one", address("two"), PORT).startswith("two ")
    assert site.asks("one", address("three"), PORT) == "dropped"
    assert site.asks("three", address("one"), PORT) == "dropped"
    edge.remove(site.channel)  # and it is the edge that does it
    assert site.asks("one", address("three"), PORT).startswith("three ")


def test_nobody_outside_reaches_a_guest_past_its_forward(site: Site, loaded: EdgeRules) -> None:
    route = ["ip", "route", "replace", "10.64.2.0/24", "via", site.edge]
    subprocess.run(route, check=True)
    try:
        with pytest.raises(TimeoutError):
            ask(address("three"), PORT)
    finally:
        subprocess.run([*route[:2], "del", "10.64.2.0/24", "via", site.edge], check=True)


def test_a_published_port_is_open_to_other_projects_and_to_neighbours(
    site: Site, loaded: EdgeRules
) -> None:
    assert site.asks("three", site.edge, 2201).startswith("one ")
    assert site.asks("two", site.edge, 2201).startswith("one ")


def test_guests_go_out_behind_the_host_and_are_not_captured_by_forwards(
    site: Site, loaded: EdgeRules
) -> None:
    with listening(site.outside, 2201):
        assert site.asks("three", site.outside, 2201) == f"outside {site.edge}"


def test_guests_reach_no_service_of_the_host_but_names_and_listeners(
    site: Site, loaded: EdgeRules
) -> None:
    assert site.asks("one", "10.64.1.1", 22) == "dropped"
    assert site.asks("one", site.edge, 22) == "dropped"
    assert site.asks("one", "10.64.1.1", 53) == "ConnectionRefusedError"
    assert site.asks("one", "10.64.2.1", 53) == "dropped"
    assert site.asks("one", site.edge, 2250) == "ConnectionRefusedError"


def test_drops_packets_with_a_forged_sender(site: Site, loaded: EdgeRules) -> None:
    site.run("ip", "-n", "one", "addr", "add", "10.64.2.77/32", "dev", "lo")
    forged = CLIENT.replace("float(sys.argv[3]))", "float(sys.argv[3]), ('10.64.2.77', 0))")
    client = [sys.executable, "-I", "-c", forged, site.outside, "2201", str(QUICK)]
    with listening(site.outside, 2201):
        heard = site.channel.run(["ip", "netns", "exec", "one", *client]).check().stdout
        assert heard == "dropped\n"
