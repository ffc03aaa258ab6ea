"""To the other host and back, live and cold, proven from inside; one life, in its order."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import host_memory
import pytest

from e2e.estate import Estate, eventually, unique
from e2e.faults import FULL, resize, small_pool
from e2e.test_shelving import Life as Shelved
from e2e.test_shelving import own
from e2e.test_snapshots import CHECK, WRITER
from innkeeper.cli.client import Json
from innkeeper.hypervisor import migration
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.lab import daemons
from innkeeper.lab.layout import HostLayout

__all__ = ["small_pool"]
COUNT = "/root/count"
LOOP = f"n=0; while :; do echo $((n+=1)) $$ > {COUNT}.new; mv {COUNT}.new {COUNT}; sleep 0.2; done"
NOISE_MIB = 24
TRIPS = 2


class Life(Shelved):
    """The server of these tests and what is done to it."""

    def migrate(self, **body: Any) -> Json:
        return self.done("migrated", self.estate.act(self.server, "migrate", **body))

    def background(self, script: str) -> None:
        self.sh(f"(trap '' HUP; exec {script}) >/dev/null 2>&1 </dev/null &")

    def count(self) -> tuple[int, str]:
        """Return how far the counter is, and its process."""
        number, process = self.sh(f"cat {COUNT}").split()
        return int(number), process

    def stands(self, home: str, before: Json) -> None:
        """Assert that the server, all of it, is on one host, and answers there."""
        assert (self.server["status"], self.server["host"]) == ("active", home)
        assert own(self.server) == own(before)
        assert self.server["edge_address"] == self.estate.host(home).edge_address
        other = {"lab1": "lab2", "lab2": "lab1"}[home]
        cards = len(self.server["nics"]) - 1
        assert len(self.traces(home)) == 5 + cards, self.traces(home)
        assert self.traces(other) == []
        assert len(self.estate.qemu(self.server)) == 1
        self.has_its_cards()
        reserved = {h["name"]: h["reserved_vcpus"] for h in self.estate.client.items("/hosts")}
        assert (reserved[home], reserved[other]) == (self.server["vcpus"], 0)
        assert self.estate.audit() == []

    def counts_on(self, before: tuple[int, str]) -> None:
        """Assert that the counter's process is the same, and goes on."""
        number, process = self.count()
        assert process == before[1]
        assert number >= before[0]
        eventually(lambda: self.count()[0] > number, what="the counter goes on")

    def hears(self, address: str) -> bool:
        return "yes" in self.sh(f"ping -c 2 -W 2 {address} >/dev/null && echo yes || true")

    def sending(self, home: str) -> bool:
        """Tell whether the guest is being sent away from a host just now."""
        return migration.look(connect(self.estate.host(home).uri), UUID(self.server["id"])).sending

    def slowly(self, home: str, mib: int) -> None:
        """Have the next live migration take its time."""
        domain = connect(self.estate.host(home).uri).lookupByUUIDString(self.server["id"])
        domain.migrateSetMaxSpeed(mib)


@pytest.fixture(scope="module")
def life(estate: Estate) -> Life:
    estate.clear()
    found = Life(estate)
    fine = {"cpu": {"nodes": "0"}, "memory": {"soft_limit": 180}}
    found.done("tuned", estate.act(found.server, "resize", **fine))
    found.sh(
        f"cat > /root/writer.py <<'END'\n{WRITER}\nEND\ncat > /root/check.py <<'END'\n{CHECK}\nEND"
    )
    found.sh(f"dd if=/dev/urandom of=/root/noise bs=1M count={NOISE_MIB} 2>/dev/null; sync")
    found.sh(f"echo '{LOOP}' > /root/loop")
    found.plug_in("own")
    found.plug_in("back", network="isolated", isolated="backend")
    return found


@pytest.fixture(autouse=True)
def _tidy(estate: Estate) -> Iterator[None]:
    """Leave no socket behind."""
    yield
    assert [p.name for p in (estate.home / "lab").iterdir() if not p.is_dir()] == []


def test_a_running_guest_moves_live_and_loses_nothing(life: Life) -> None:
    life.background("sh /root/loop")
    life.background("python3 /root/writer.py")
    eventually(lambda: int(life.sh("cat /root/records 2>/dev/null | wc -l")) > 200, what="records")
    noise, boot = life.sh("sha256sum /root/noise"), life.estate.boot_id(life.server)
    before, count, home = life.server, life.count(), life.server["host"]
    target, cards = life.other, life.has_its_cards()
    written = int(life.sh("cat /root/records | wc -l"))
    life.migrate()
    (step,) = [s for s in life.estate.operation(_last(life))["steps"] if s["name"] == "switch-over"]
    assert "with its memory" in step["detail"], "emulated guests do not run meanwhile"
    life.stands(target, before)
    assert life.estate.boot_id(life.server) == boot
    assert life.has_its_cards() == cards
    assert host_memory.soft_limit(UUID(life.server["id"])) == 180
    life.counts_on(count)
    assert life.sh("sha256sum /root/noise") == noise
    eventually(lambda: int(life.sh("cat /root/records | wc -l")) > written, what="more records")
    life.sh("pkill -f writer.py; sync")
    assert int(life.sh("python3 /root/check.py")) > written
    assert home == life.other


def _last(life: Life) -> Json:
    found: Json = next(life.estate.client.items("/operations", server_id=life.server["id"]))
    assert found["verb"] == "migrate"
    return found


def test_to_and_fro_it_goes_on(life: Life) -> None:
    """Again and again: a memory that arrives torn does so only now and then.

    The tests below move it live as well.
    """
    boot, count = life.estate.boot_id(life.server), life.count()
    for _ in range(TRIPS):
        life.migrate(mode="live")
        life.counts_on(count)
        assert "panic" not in life.estate.cli("server", "console", life.server["name"]).stdout
    assert life.estate.boot_id(life.server) == boot


def test_a_worker_killed_in_the_middle_of_a_live_migration(life: Life) -> None:
    boot, before, count = life.estate.boot_id(life.server), life.server, life.count()
    home, target = life.server["host"], life.other
    life.slowly(home, 8)
    operation = life.estate.act(life.server, "migrate", mode="live")
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    life.estate.kill_worker()
    life.done("resumed", operation)
    assert life.estate.operation(operation)["attempt"] > 1
    life.stands(target, before)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)


def test_cancelled_in_the_middle_it_runs_on_where_it_was(life: Life) -> None:
    boot, before, count = life.estate.boot_id(life.server), life.server, life.count()
    home = life.server["host"]
    life.slowly(home, 8)
    operation = life.estate.act(life.server, "migrate", mode="live")
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    life.estate.client.post(f"/operations/{operation['id']}/cancel")
    ended = life.estate.wait(operation)
    assert ended["phase"] == "cancelled", ended
    life.server = life.estate.server(before)
    life.stands(home, before)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)


def test_a_new_host_that_dies_meanwhile_leaves_the_guest_where_it_was(life: Life) -> None:
    boot, before, count = life.estate.boot_id(life.server), life.server, life.count()
    home, target = life.server["host"], life.other
    life.slowly(home, 8)
    operation = life.estate.act(life.server, "migrate", mode="live")
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    daemons.end_all(life.estate.layout(target))
    ended = life.estate.wait(operation)
    assert ended["phase"] == "failed", ended
    life.server = life.estate.server(before)
    assert (life.server["status"], life.server["host"]) == ("active", home)
    assert life.estate.boot_id(life.server) == boot
    life.counts_on(count)
    life.estate.lab.restart(target)
    forget(life.estate.host(target).uri)
    life.estate.reconcile()
    eventually(lambda: _quiet(life), seconds=120, pause=2.0, what="the host is tidied up")
    life.stands(home, before)


def _quiet(life: Life) -> bool:
    """Tell whether all hosts answer, as the next test needs them, and agree with the database."""
    life.estate.reconcile()
    hosts = life.estate.client.items("/hosts")
    return all(host["reachable"] for host in hosts) and life.estate.audit() == []


def test_a_shut_down_guest_moves_with_its_disk(life: Life) -> None:
    boot, before = life.estate.boot_id(life.server), life.server
    noise, target = life.sh("sha256sum /root/noise"), life.other
    life.sh("echo kept > /root/kept; sync")
    refused = life.estate.cli("server", "migrate", before["name"], "--cold", code=4)
    assert "--allow-power-cycle" in refused.stderr
    told = life.estate.cli("server", "migrate", before["name"], "--cold", "--dry-run")
    assert "power_cycle" in told.stdout
    assert target in told.stdout
    options = ("--cold", "--allow-power-cycle", "--wait")
    life.estate.cli("server", "migrate", before["name"], *options)
    life.server = life.estate.server(before)
    life.stands(target, before)
    assert life.estate.boot_id(life.server) != boot
    assert life.sh("sha256sum /root/noise; cat /root/kept") == f"{noise}\nkept"
    assert life.sh("cat /root/boots") == "first boot", "it is not a new instance"


def test_a_stopped_server_moves_and_stays_off(life: Life) -> None:
    life.done("stopped", life.estate.act(life.server, "stop"))
    target = life.other
    life.migrate()
    assert (life.server["status"], life.server["host"]) == ("stopped", target)
    assert life.estate.qemu(life.server) == []
    life.done("started", life.estate.act(life.server, "start"))
    assert life.sh("cat /root/kept") == "kept"


def test_a_cold_migration_killed_at_one_point_after_another_is_resumed(life: Life) -> None:
    before, target = life.server, life.other
    body = {"mode": "cold", "allow_power_cycle": True}
    points = ("carry-disk-after", "switch-over-after", "undefine-before")
    with life.estate.dying("migrate", *points):
        operation = life.estate.act(life.server, "migrate", **body)
        life.done("resumed", operation)
    assert life.estate.operation(operation)["attempt"] > len(points)
    life.stands(target, before)
    assert life.sh("cat /root/kept") == "kept"


def test_a_pool_that_is_full_leaves_the_guest_where_it_was(
    life: Life, small_pool: HostLayout
) -> None:
    boot, before, home = life.estate.boot_id(life.server), life.server, life.server["host"]
    body = {"mode": "live", "host": FULL}
    ended = life.estate.wait(life.estate.act(life.server, "migrate", **body))
    assert ended["phase"] == "failed"
    assert "no space left" in ended["error"].lower()
    resize(small_pool, "400m")
    life.slowly(home, 4)
    operation = life.estate.act(life.server, "migrate", **body)
    eventually(lambda: life.sending(home), pause=0.02, seconds=60, what="libvirt sends it")
    filler = small_pool.pool / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    ended = life.estate.wait(operation)
    filler.unlink()
    print(f"in the middle: {ended['error']}")  # noqa: T201 - for the report
    assert ended["phase"] == "failed"
    assert "no space left" in ended["error"].lower()
    assert life.estate.boot_id(life.server) == boot
    life.server = life.estate.server(before)
    assert (life.server["host"], life.server["status"]) == (home, "active")
    assert life.estate.audit() == []
    life.slowly(home, 1000)


def test_a_drained_host_is_empty_and_its_guests_run_on(life: Life) -> None:
    home = life.server["host"]
    beside = life.estate.done(life.estate.create(unique("beside")))
    if beside["host"] != home:
        beside = life.estate.done(life.estate.act(beside, "migrate", host=home))
    life.estate.done(life.estate.act(beside, "attach-disk", name=unique("data"), size_gib=1))
    card = {"name": "back", "network": "isolated", "isolated": "backend"}
    beside = life.estate.done(life.estate.act(beside, "attach-nic", **card))
    address = beside["nics"][1]["address"]
    eventually(lambda: life.hears(address), what="its neighbour on the network without a way out")
    told = life.estate.cli("server", "migrate", beside["name"], "--dry-run").stdout
    assert f"does not reach {life.server['name']} on {home} any more" in " ".join(told.split())
    path = f"/servers/{beside['id']}/snapshots"
    life.estate.done(life.estate.client.post(path, {"name": "before"}))
    boots = {s["id"]: life.estate.boot_id(s) for s in (life.server, beside)}
    plan = life.estate.cli("host", "drain", home, "--dry-run")
    assert plan.stdout.count(life.other) == len(boots)
    assert {h["name"]: h["enabled"] for h in life.estate.client.items("/hosts")}[home]
    done = life.estate.cli("host", "drain", home, "--wait", timeout=400)
    assert "drain done" in done.stdout
    assert done.stdout.count("moved") == len(boots)
    hosts = {h["name"]: h for h in life.estate.client.items("/hosts")}
    assert (hosts[home]["servers"], hosts[home]["enabled"]) == (0, False)
    for server_id, boot in boots.items():
        moved = life.estate.server(server_id)
        assert moved["host"] != home
        assert life.estate.boot_id(moved) == boot
    life.estate.reconcile()  # of two that leave at once each may leave the network to the other
    assert life.estate.audit() == []
    life.server = life.estate.server(life.server)
    life.has_its_cards()
    eventually(lambda: life.hears(address), what="the neighbour, where both are now")
    life.estate.cli("host", "enable", home)
