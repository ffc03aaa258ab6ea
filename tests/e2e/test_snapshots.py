"""Snapshots of a guest that proves them from inside; the tests are one life, in their order."""

import json
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu
import pytest

from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.db.models import Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.naming import POOL, server_of
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect

COUNT = "/dev/shm/count"  # noqa: S108 - in the guest's memory
WRITER = """
import hashlib, time
with open("/root/records", "a") as out:
    number = 0
    while True:
        text = f"{number} {time.time()}" + "x" * (number % 900)
        out.write(f"{hashlib.sha256(text.encode()).hexdigest()} {text}\\n")
        out.flush()
        number += 1
        time.sleep(0.002)
"""
CHECK = """
import hashlib
lines = open("/root/records").read().split("\\n")
assert lines.pop() == "", "the last record is whole"
for number, line in enumerate(lines):
    digest, text = line.split(" ", 1)
    assert hashlib.sha256(text.encode()).hexdigest() == digest, number
    assert text.split(" ")[0] == str(number), number
print(len(lines))
"""


class Life:
    """The server of these tests and what is done to it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.server = estate.done(estate.create(unique("snap")))
        self.path = f"/servers/{self.server['id']}/snapshots"
        self.sh("mkdir -p /root; ln -sf /usr/bin/busybox /usr/sbin/hwclock")  # the agent calls it

    def sh(self, script: str) -> str:
        return self.estate.login(self.server, ["sudo", "sh", "-c", script], timeout=60.0).strip()

    def background(self, script: str) -> None:
        self.sh(f"(trap '' HUP; exec {script}) >/dev/null 2>&1 </dev/null &")

    def count(self, path: str) -> int:
        return int(self.sh(f"cat {path} 2>/dev/null | wc -l"))

    def ask(self, name: str, **fields: Any) -> Json:
        answer: Json = self.estate.client.post(self.path, {"name": name} | fields)
        return answer

    def done(self, what: str, operation: Json) -> Json:
        begun = time.monotonic()
        self.server = self.estate.done(operation)
        print(f"{what} in {time.monotonic() - begun:.1f} s")  # noqa: T201 - a measured time
        assert self.estate.audit() == []
        return self.server

    def take(self, name: str, **fields: Any) -> Json:
        self.done(f"snapshot {name} {fields}", self.ask(name, **fields))
        return self.find(name)

    def find(self, name: str) -> Json:
        return next(s for s in self.estate.client.items(self.path) if s["name"] == name)

    def revert(self, name: str) -> Json:
        path = f"{self.path}/{self.find(name)['id']}/actions/revert"
        return self.done(f"revert to {name}", self.estate.client.post(path))

    def delete(self, name: str) -> Json:
        path = f"{self.path}/{self.find(name)['id']}"
        return self.done(f"deletion of {name}", self.estate.client.delete(path))

    @property
    def domain(self) -> libvirt.virDomain:
        return self.conn.lookupByUUIDString(self.server["id"])

    @property
    def conn(self) -> libvirt.virConnect:
        return connect(self.estate.host(self.server["host"]).uri)

    def frozen(self) -> bool:
        said = libvirt_qemu.qemuAgentCommand(
            self.domain, '{"execute": "guest-fsfreeze-status"}', 10, 0
        )
        return bool(json.loads(said)["return"] == "frozen")

    def files(self) -> list[str]:
        names = storage.volume_names(self.conn, POOL)
        return [name for name in names if server_of(name) == UUID(self.server["id"])]


@pytest.fixture(scope="module")
def life(estate: Estate) -> Life:
    estate.clear()
    return Life(estate)


def test_a_revert_takes_back_what_came_after(life: Life) -> None:
    life.sh("echo before > /root/before; sync")
    view = life.take("first", quiesce="required")
    assert (view["kind"], view["phase"], view["current"]) == ("quiesced", "ready", True)
    assert view["size_bytes"] > 1 << 20
    life.sh("echo after > /root/after; sync")
    boot = life.estate.boot_id(life.server)
    life.revert("first")
    assert life.estate.boot_id(life.server) != boot
    assert life.sh("cd /root; ls before after 2>/dev/null; true") == "before"


def test_a_writer_is_whole_in_a_quiesced_snapshot(life: Life) -> None:
    life.sh(f"cat > /root/writer.py <<'END'\n{WRITER}\nEND")
    life.background("python3 /root/writer.py")
    eventually(lambda: life.count("/root/records") > 200, what="records")
    written = life.count("/root/records")
    life.take("writing", quiesce="required")
    life.revert("writing")
    life.sh(f"cat > /root/check.py <<'END'\n{CHECK}\nEND")
    kept = int(life.sh("python3 /root/check.py"))
    assert kept >= written, "what was written before the snapshot is in it, and nothing is torn"
    life.sh("rm /root/records")


def test_with_its_memory_a_process_goes_on(life: Life) -> None:
    loop = (
        f"n=0; while :; do echo $((n+=1)) $$ > {COUNT}.new; mv {COUNT}.new {COUNT}; sleep 0.2; done"
    )
    life.sh(f"echo '{loop}' > /root/loop")
    life.background("sh /root/loop")
    eventually(lambda: life.count(COUNT), what="the counter")
    boot = life.estate.boot_id(life.server)  # Linux makes it when it is first read
    view = life.take("memory", memory=True)
    assert view["kind"] == "memory"
    assert view["size_bytes"] > 20 << 20
    count, process = life.sh(f"cat {COUNT}").split()
    life.sh("echo gone > /root/gone; sync")
    time.sleep(3)
    assert int(life.sh(f"cat {COUNT}").split()[0]) > int(count) + 5
    for _ in range(2):
        begun = time.monotonic()
        life.revert("memory")
        again, same = life.sh(f"cat {COUNT}").split()
        seconds = time.monotonic() - begun
        print(f"asked to counting on: {seconds:.1f} s")  # noqa: T201 - a measured time
        assert (same, life.estate.boot_id(life.server)) == (process, boot), "the same process"
        assert int(count) - 10 < int(again) < int(count) + 5 * (seconds + 5)
        assert life.sh("ls /root/gone 2>/dev/null; true") == ""
        assert abs(float(life.sh("date +%s")) - time.time()) < 3, "its clock was set"


def test_a_running_server_is_merged_and_keeps_all(life: Life) -> None:
    digests = {}
    for name in ("one", "two"):
        life.sh(f"dd if=/dev/urandom of=/root/{name} bs=1M count=4 2>/dev/null; sync")
        digests[name] = life.sh(f"sha256sum /root/{name}")
        life.take(f"chain-{name}")
    life.sh("echo top > /root/top; sync")
    rebuild = life.estate.client
    with pytest.raises(Exception, match="snapshots"):
        rebuild.post(f"/servers/{life.server['id']}/actions/rebuild")
    for name in ("chain-one", "first", "chain-two"):  # middle, oldest, the one it lies on
        life.delete(name)
    life.sh("echo 3 > /proc/sys/vm/drop_caches")
    for name, digest in digests.items():
        assert life.sh(f"sha256sum /root/{name}") == digest
    assert life.sh("cat /root/before /root/top") == "before\ntop"
    life.revert("memory")
    assert life.sh("ls /root/top 2>/dev/null; true") == "", "the others are what they were"
    assert life.sh("cat /root/before") == "before"


def test_a_frozen_guest_of_a_dead_run_is_thawed(life: Life) -> None:
    operation = life.estate.killed(
        "snapshot", "capture-before", lambda: life.ask("resumed", quiesce="required")
    )
    life.domain.fsFreeze()  # as a libvirtd that died between freeze and thaw leaves it
    assert life.frozen()
    life.estate.start_worker()
    life.done("resumed snapshot", operation)
    assert not life.frozen()
    assert life.find("resumed")["kind"] == "quiesced"
    life.sh("echo thawed > /root/thawed; sync")


def test_a_cancelled_snapshot_of_a_dead_run_is_undone(life: Life) -> None:
    files = life.files()
    operation = life.estate.killed("snapshot", "capture-after", lambda: life.ask("cancelled"))
    life.sh("echo meanwhile > /root/meanwhile; sync")
    assert len(life.files()) == len(files) + 1
    life.domain.fsFreeze()
    life.estate.client.post(f"/operations/{operation['id']}/cancel")
    life.estate.start_worker()
    ended = life.estate.wait(operation)
    assert ended["phase"] == "cancelled", ended["error"]
    assert not life.frozen()
    assert life.files() == files
    assert life.estate.audit() == []
    assert life.find("cancelled")["phase"] == "failed"
    assert life.sh("cat /root/thawed /root/meanwhile") == "thawed\nmeanwhile"


def test_killed_reverts_and_deletions_are_resumed(life: Life) -> None:
    life.take("killed", memory=True)
    life.sh("echo lost > /root/lost; sync")
    path = f"{life.path}/{life.find('killed')['id']}"
    with life.estate.dying("revert", "go-on-after"):
        life.done("resumed revert", life.estate.client.post(f"{path}/actions/revert"))
    assert life.sh("ls /root/lost 2>/dev/null; cat /root/meanwhile") == "meanwhile"
    life.take("above")
    with life.estate.dying("delete-snapshot", "merge-after"):
        life.done("resumed deletion", life.estate.client.delete(path))
    assert life.sh("cat /root/meanwhile") == "meanwhile"


def test_a_stopped_server_is_frozen_and_reverted_and_merged(life: Life) -> None:
    life.sh("echo rested > /root/rested; sync")
    life.done("stop", life.estate.act(life.server, "stop"))
    assert life.take("stopped")["kind"] == "stopped"
    life.revert("memory")
    assert life.server["status"] == "active", "the memory goes on"
    life.done("stop", life.estate.act(life.server, "stop"))
    assert life.revert("stopped")["status"] == "stopped"
    for name in ("above", "stopped", "resumed"):
        life.delete(name)
    life.done("start", life.estate.act(life.server, "start"))
    assert life.sh("cat /root/rested /root/meanwhile") == "rested\nmeanwhile"


def test_a_policy_takes_one_and_lets_an_old_one_go(life: Life) -> None:
    body = {"name": "hourly", "schedule": "hourly:1", "stagger_minutes": 0, "verify": "none"}
    life.estate.client.post("/snapshot-policies", body | {"server": life.server["id"]})

    def applied() -> list[Json]:
        life.estate.run_through("apply-snapshot-policies/apply-snapshot-policies")
        server = life.estate.server(life.server)
        if server["operation_id"]:
            life.estate.done(life.estate.client.get(f"/operations/{server['operation_id']}"))
        return [s for s in life.estate.client.items(life.path) if s["policy_id"]]

    life.sh("echo kept > /root/kept; sync")
    first, *_ = applied()
    assert (first["phase"], first["kind"]) == ("ready", "quiesced")
    with transaction() as session:
        row = session.get_one(Snapshot, UUID(first["id"]))
        row.created_at -= timedelta(hours=1)
    for _ in range(4):  # its schedule may apply it, too, in between: that is as good
        left = [snapshot["id"] for snapshot in applied()]
        if first["id"] not in left:
            break
    assert left, "a newer one was taken"
    assert first["id"] not in left
    assert life.estate.audit() == []
    assert life.sh("cat /root/kept") == "kept"


def test_deleted_with_all_its_snapshots(life: Life) -> None:
    assert len(life.files()) > 2
    host = life.conn
    life.done("deletion of the server", life.estate.act(life.server, "delete"))
    names = storage.volume_names(host, POOL)
    assert [name for name in names if server_of(name) == UUID(life.server["id"])] == []
