"""Resizing a guest that tells its size from inside; the tests are one life, in their order."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import host_memory
import pytest

from benchmarks.create_steps import seconds_between
from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure

DEATH_SECONDS = 120.0
PAGES = 140
DEVICES, BALLOON = "cat /sys/bus/virtio/devices/*/device", "0x0005"
COUNT = "/dev/shm/count"  # noqa: S108 - in the guest's memory
LOOP = f"n=0; while :; do echo $((n+=1)) $$ > {COUNT}.new; mv {COUNT}.new {COUNT}; sleep 0.2; done"


class Life:
    """The server of these tests and what is done to it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        fine = {"cpu": {"nodes": "0"}, "memory": {"soft_limit": 190}}
        self.server = estate.done(estate.create(unique("size"), **fine))
        self.path = f"/servers/{self.server['id']}"
        self.pages = ExitStack()

    def sh(self, script: str) -> str:
        return self.estate.login(self.server, ["sudo", "sh", "-c", script], timeout=60.0).strip()

    def ask(self, **fields: Any) -> Json:
        return self.estate.act(self.server, "resize", **fields)

    def done(self, what: str, operation: Json) -> Json:
        begun = time.monotonic()
        self.server = self.estate.done(operation)
        steps = self.estate.operation(operation)["steps"]
        told = "; ".join(
            f"{step['name']} {seconds_between(step['begun_at'], step['ended_at']):.2f} s: "
            f"{step['detail']}"
            for step in steps
        )
        print(f"{what} in {time.monotonic() - begun:.1f} s ({told})")  # noqa: T201 - measured
        assert self.estate.audit() == []
        return self.server

    def resize(self, **fields: Any) -> Json:
        return self.done(f"resize {fields}", self.ask(**fields))

    def cpus(self) -> int:
        return int(self.sh("nproc"))

    def memory(self) -> int:
        """Return the MiB that the guest's kernel counts: less than it was given."""
        return int(self.sh("awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))

    def disk(self) -> float:
        """Return the GiB of the disk as the guest sees it."""
        return int(self.sh("cat /sys/block/vda/size")) / 2**21

    def filesystem(self) -> float:
        return int(self.sh("df -k / | awk 'END {print $2}'")) / 2**20

    def seen(self, vcpus: int, memory_mib: int, disk_gib: int) -> None:
        """Assert that the guest sees this size, and that the API tells it."""
        told = [self.server[name] for name in ("vcpus", "memory_mib", "disk_gib")]
        assert told == [vcpus, memory_mib, disk_gib]
        assert self.cpus() == vcpus
        assert memory_mib * 0.7 < self.memory() < memory_mib
        assert self.disk() == disk_gib

    def tasks(self) -> dict[str, Path]:
        """Return the threads that run its vCPUs, as the host's kernel shows them."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self.server["id"].encode() not in (process / "cmdline").read_bytes():
                    continue
                for task in (process / "task").iterdir():
                    if (name := (task / "comm").read_text().strip()).startswith("CPU "):
                        found[name] = task
        return found

    def runs_on(self) -> set[frozenset[int]]:
        """Return on which CPUs the host's kernel lets its vCPUs."""
        tasks = self.tasks().values()
        return {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks}

    def busy(self, seconds: float = 2.5) -> float:
        """Return how many of a host's CPUs its busiest vCPU takes."""
        tasks = self.tasks()

        def ticks() -> dict[str, int]:
            fields = {
                n: (t / "stat").read_text().rpartition(")")[2].split() for n, t in tasks.items()
            }
            return {name: int(there[11]) + int(there[12]) for name, there in fields.items()}

        before, begun = ticks(), time.monotonic()
        time.sleep(seconds)
        after, took = ticks(), time.monotonic() - begun
        return max(after[n] - before[n] for n in before) / os.sysconf("SC_CLK_TCK") / took

    def count(self) -> tuple[int, str]:
        """Return how far the counting process is, and its id."""
        number, process = self.sh(f"cat {COUNT}").split()
        return int(number), process


@pytest.fixture(scope="module")
def life(estate: Estate) -> Iterator[Life]:
    estate.clear()
    made = Life(estate)
    with made.pages:
        yield made


def test_live_as_it_was_planned_and_a_process_goes_on(life: Life) -> None:
    life.seen(1, 192, 1)
    assert host_memory.soft_limit(UUID(life.server["id"])) == 190
    life.sh(f"echo '{LOOP}' > /root/loop")
    life.sh("(trap '' HUP; exec sh /root/loop) >/dev/null 2>&1 </dev/null &")
    eventually(lambda: life.sh(f"cat {COUNT} 2>/dev/null; true"), what="the counter")
    boot, (count, process) = life.estate.boot_id(life.server), life.count()
    wanted = {"vcpus": 2, "memory_mib": 320, "disk_gib": 2}
    plan = life.estate.client.post(f"{life.path}/actions/resize", wanted, dry_run=True)
    assert {change["effect"] for change in plan["changes"]} == {"live"}
    assert plan["interruption"] == "none"
    life.seen(1, 192, 1)
    before = life.filesystem()
    operation = life.estate.client.post(f"{life.path}/actions/resize", wanted, plan=plan["digest"])
    life.done("live", operation)
    life.seen(2, 320, 2)
    assert life.filesystem() > before + 0.8
    again, same = life.count()
    assert (same, life.estate.boot_id(life.server)) == (process, boot)
    assert again > count
    with pytest.raises(CliFailure, match="has changed"):
        life.estate.client.post(f"{life.path}/actions/resize", wanted, plan=plan["digest"])


def test_weight_limit_and_place_while_it_runs(life: Life) -> None:
    boot = life.estate.boot_id(life.server)
    life.sh("(trap '' HUP; while :; do :; done) >/dev/null 2>&1 </dev/null & echo $! > /run/busy")
    free = life.busy()
    bounds = {"shares": 300, "limit": 5, "pin": "1"}
    life.resize(cpu=bounds | {"nodes": ""}, memory={"soft_limit": 250})
    bound = life.busy()
    print(f"a busy vCPU takes {free:.2f} CPUs, with a limit of 5 % {bound:.2f}")  # noqa: T201
    assert bound < 0.07 < free
    assert life.runs_on() == {frozenset({1})}
    assert life.server["cpu"] == bounds
    assert host_memory.soft_limit(UUID(life.server["id"])) == 250
    life.resize(cpu={"limit": 0, "pin": "", "nodes": "0"}, memory={"soft_limit": 0})
    assert host_memory.soft_limit(UUID(life.server["id"])) is None
    assert life.busy() > 0.07
    assert life.runs_on() == {frozenset({0, 1})}
    life.sh("kill -9 $(cat /run/busy)")
    assert life.estate.boot_id(life.server) == boot


def test_with_a_power_cycle_if_that_is_allowed(life: Life) -> None:
    boot = life.estate.boot_id(life.server)
    wanted = {"vcpus": 1, "memory_mib": 512, "disk_gib": 3}
    with pytest.raises(CliFailure) as refused:
        life.ask(**wanted)
    assert "cannot be taken from a running guest" in refused.value.detail
    assert life.estate.boot_id(life.server) == boot
    life.resize(**wanted, defer=True)
    waits = life.estate.client.get(life.path)
    assert [one["type"] for one in waits["conditions"]] == ["ReconfigurePendingPowerCycle"]
    assert life.estate.boot_id(life.server) == boot, "nobody was interrupted"
    operation = life.estate.act(life.server, "reboot")
    assert operation["verb"] == "resize"
    life.done("reboot", operation)
    life.seen(1, 512, 3)
    assert life.estate.boot_id(life.server) != boot
    assert life.estate.client.get(life.path)["conditions"] == []
    eventually(lambda: life.filesystem() > 2.7, what="the file system")


def test_while_it_is_stopped(life: Life) -> None:
    assert BALLOON in life.sh(DEVICES)
    life.done("stop", life.estate.act(life.server, "stop"))
    huge = life.pages.enter_context(host_memory.set_aside(PAGES))
    backed = {"hugepages": 2 if huge else 0, "nodes": "0", "balloon": False}
    with pytest.raises(CliFailure) as refused:
        life.ask(memory={"hugepages": 2, "nodes": "1"})
    assert "no NUMA node 1, but 0" in refused.value.detail
    with pytest.raises(CliFailure) as refused:
        life.ask(memory_mib=512, memory={"hugepages": 2})
    assert "huge pages of 2 MiB" in refused.value.detail, "more than there are"
    life.resize(memory_mib=256, disk_gib=4, memory=backed)
    assert life.server["status"] == "stopped"
    life.done("start", life.estate.act(life.server, "start"))
    life.seen(1, 256, 4)
    assert host_memory.taken_mib(UUID(life.server["id"])) == (256 if huge else 0)
    assert BALLOON not in life.sh(DEVICES)
    eventually(lambda: life.filesystem() > 3.6, what="the file system")


def test_a_killed_power_cycle_is_resumed(life: Life) -> None:
    with life.estate.dying("resize", "turn-on-before"):
        operation = life.ask(
            vcpus=2,
            memory_mib=192,
            allow_power_cycle=True,
            cpu={"sockets": 2, "model": "qemu64"},
            memory={"hugepages": 0, "nodes": "", "balloon": True},
        )
        life.done("resumed", operation)
    life.seen(2, 192, 4)
    cpuinfo = life.sh("cat /proc/cpuinfo")
    assert len(set(re.findall(r"physical id\s*: (\d+)", cpuinfo))) == 2, "two sockets"
    assert "QEMU Virtual CPU" in cpuinfo, "of that model"
    assert host_memory.taken_mib(UUID(life.server["id"])) == 0
    life.pages.close()
    assert BALLOON in life.sh(DEVICES)


def test_all_that_is_wanted_at_once_and_nothing_twice(life: Life) -> None:
    path, size = f"{life.path}/resources", {"vcpus": 2, "memory_mib": 192, "disk_gib": 4}
    fine = {"sockets": 2, "model": "qemu64", "nodes": "0"}
    disk = {"name": unique("data"), "size_gib": 1}

    def put(**fields: Any) -> None:
        begun = life.estate.client.put(path, size | fields)
        assert begun["changed"]
        eventually(lambda: not life.estate.server(life.server)["conditions"], what="all of it")
        assert life.estate.audit() == []
        assert not life.estate.client.put(path, size | fields)["changed"], "it is done once"

    put(cpu=fine | {"limit": 80, "shares": 300}, disks=[disk])
    there = life.estate.server(life.server)
    assert (there["cpu"]["limit"], [one["name"] for one in there["disks"]]) == (80, [disk["name"]])
    serial = there["disks"][0]["device"].rpartition("virtio-")[2]
    find = f"for d in /sys/block/vd*; do grep -q {serial} $d/serial && cat $d/size; done; true"
    assert life.sh(find) == str(2**21)
    put(cpu=fine | {"shares": 300}, disks=[], remove_disks="delete")
    assert life.estate.server(life.server)["disks"] == []
    assert life.sh(find) == ""


def test_layers_of_other_sizes_are_reverted_to_and_merged(life: Life) -> None:
    snapshots = f"{life.path}/snapshots"
    life.sh("dd if=/dev/urandom of=/root/kept bs=1M count=4 2>/dev/null; sync")
    digest = life.sh("sha256sum /root/kept")
    for name in ("small", "middle"):
        life.done(name, life.estate.client.post(snapshots, {"name": name}))
        life.resize(disk_gib=life.server["disk_gib"] + 1)
    life.sh("echo after > /root/after; sync")
    found = {s["name"]: s["id"] for s in life.estate.client.items(snapshots)}
    for name in ("small", "middle"):
        path = f"{snapshots}/{found[name]}/actions/revert"
        life.done(f"revert to {name}", life.estate.client.post(path))
        life.seen(2, 192, 6)
        eventually(lambda: life.filesystem() > 5.4, what="the file system")
        assert life.sh("ls /root/after 2>/dev/null; true") == ""
        assert life.sh("sha256sum /root/kept") == digest
    life.sh("echo last > /root/last; sync")
    for name in ("small", "middle"):
        path = f"{snapshots}/{found[name]}"
        life.done(f"deletion of {name}", life.estate.client.delete(path))
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    assert life.sh("sha256sum /root/kept; cat /root/last") == f"{digest}\nlast"
    life.seen(2, 192, 6)


def test_a_memory_stands_in_the_way_of_another_memory_only(life: Life) -> None:
    snapshots = f"{life.path}/snapshots"
    body = {"name": "asleep", "memory": True}
    life.sh("(trap '' HUP; exec sh /root/loop) >/dev/null 2>&1 </dev/null &")
    eventually(lambda: life.sh(f"cat {COUNT} 2>/dev/null; true"), what="the counter")
    _, process = life.count()
    life.done("asleep", life.estate.client.post(snapshots, body))
    with pytest.raises(CliFailure) as refused:
        life.ask(memory_mib=256)
    assert "(asleep)" in refused.value.detail
    life.resize(disk_gib=7)
    (found,) = life.estate.client.items(snapshots)
    path = f"{snapshots}/{found['id']}"
    life.done("revert", life.estate.client.post(f"{path}/actions/revert"))
    assert life.count()[1] == process, "the same process"
    life.sh("dd if=/dev/zero of=/root/more bs=1M count=8 2>/dev/null; sync; rm /root/more")
    life.done("deletion", life.estate.client.delete(path))
    life.resize(memory_mib=256)
    life.done("reboot", life.estate.act(life.server, "reboot"))
    life.seen(2, 256, 7)


def test_what_waits_is_done_when_the_window_opens(life: Life) -> None:
    boot = life.estate.boot_id(life.server)
    operation = life.ask(cpu={"sockets": 0, "model": ""}, defer=True)
    assert operation["deferred"]
    life.estate.reconcile()
    assert life.estate.boot_id(life.server) == boot, "it has no window"
    hour = timedelta(hours=1)
    window = f"daily {datetime.now(UTC) - hour:%H:%M}-{datetime.now(UTC) + hour:%H:%M}"
    life.estate.client.patch(life.path, {"maintenance_window": window})
    life.estate.reconcile()
    query = {"server_id": life.server["id"], "limit": 1}
    (resized,) = life.estate.client.items("/operations", **query)
    assert (resized["verb"], resized["actor"]) == ("resize", "maintenance-window")
    life.done("in its window", resized)
    assert (life.server["cpu"], life.server["conditions"]) == ({"shares": 300, "nodes": "0"}, [])
    assert life.estate.boot_id(life.server) != boot
    assert "QEMU Virtual CPU" not in life.sh("cat /proc/cpuinfo")


def test_a_rebuild_keeps_the_size(life: Life) -> None:
    life.done("rebuild", life.estate.act(life.server, "rebuild"))
    life.seen(2, 256, 7)
    life.done("deletion", life.estate.act(life.server, "delete"))
