"""Clones of guests that prove them from inside; the tests of a class are one life, in order."""

import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import libvirt_qemu
import pytest

from e2e.estate import Estate, eventually, unique
from e2e.test_snapshots import CHECK, WRITER
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.configuration.login import LoginRefused
from innkeeper.configuration.login import run as login
from innkeeper.domain.naming import POOL, network_name, server_of
from innkeeper.hypervisor import network, storage
from innkeeper.hypervisor.connection import connect
from tasks.clone import FACTS

IDENTITY = {"hostname", "machine-id", "instance-id", "mac", "host-key"}
GAP_SECONDS = 5.0
"""How long a writer may stand still while its guest is frozen, on a busy machine."""
GAPS = """
times = [float(line.split(" ")[2].split("x")[0]) for line in open("/root/records")]
print(max(after - before for before, after in zip(times, times[1:])))
"""


def sh(estate: Estate, server: Json, script: str) -> str:
    return estate.login(server, ["sudo", "sh", "-c", script], timeout=60.0).strip()


def facts(estate: Estate, server: Json) -> dict[str, set[str]]:
    """Return who a guest says it is, and who the DHCP server takes it for."""
    found: dict[str, set[str]] = {}
    for line in sh(estate, server, FACTS).splitlines():
        name, _, fact = line.partition(" ")
        found.setdefault(name, set()).add(fact)
    found["mac"] -= {"00:00:00:00:00:00"}
    conn = connect(estate.host(server["host"]).uri)
    leases = network.leases(conn, network_name(UUID(server["project_id"])))
    clients = {lease.client_id for lease in leases if lease.mac == server["mac"]}
    found["client-id"] = {client for client in clients if client}
    return found


def different(estate: Estate, one: Json, two: Json, *, names: set[str]) -> None:
    ours, theirs = facts(estate, one), facts(estate, two)
    print(one["name"], ours, two["name"], theirs)  # noqa: T201 - the evidence
    for name in names:
        assert ours[name], name
        assert theirs[name], name
        assert not ours[name] & theirs[name], f"both have the same {name}"


def files(estate: Estate, server: Json) -> dict[str, str]:
    """Return a server's files and what each leans on."""
    conn = connect(estate.host(server["host"]).uri)
    found = {}
    for name in storage.volume_names(conn, POOL):
        if server_of(name) == UUID(server["id"]):
            leans_on = storage.leans_on(conn, POOL, name)
            found[name] = leans_on.name if leans_on else ""
    return found


def clone(estate: Estate, source: Json, name: str, **fields: Any) -> Json:
    answer: Json = estate.client.post(f"/servers/{source['id']}/clones", {"name": name} | fields)
    return answer


def deleted(estate: Estate, server: Json) -> None:
    """Delete a server; what reconcile does to it just then is waited for."""
    deadline = time.monotonic() + 60
    while True:
        try:
            operation = estate.act(server, "delete")
        except CliFailure as refused:
            if "is at work on" not in str(refused) or time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            estate.done(operation)
            return


class Writer:
    """A server in which records are written all the time."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.server = estate.done(estate.create(unique("source")))
        self.sh(f"cat > /root/writer.py <<'END'\n{WRITER}\nEND")
        self.sh(f"cat > /root/check.py <<'END'\n{CHECK}\nEND")
        self.sh("(trap '' HUP; exec python3 /root/writer.py) >/dev/null 2>&1 </dev/null &")
        eventually(lambda: self.count() > 200, what="records")
        self.boot = estate.boot_id(self.server)
        self.twin: Json = {}

    def sh(self, script: str) -> str:
        return sh(self.estate, self.server, script)

    def count(self) -> int:
        return int(self.sh("cat /root/records 2>/dev/null | wc -l"))


@pytest.fixture(scope="module")
def life(estate: Estate) -> Writer:
    estate.clear()
    return Writer(estate)


def test_a_running_writer_is_cloned_and_loses_nothing(estate: Estate, life: Writer) -> None:
    written, process = life.count(), life.sh("pidof python3")
    name = unique("twin")
    begun = time.monotonic()
    said = estate.cli("clone", life.server["name"], name, "--quiesce", "required", "--wait")
    print(f"linked clone until verified: {time.monotonic() - begun:.1f} s")  # noqa: T201
    assert f"{name} is active" in said.stdout
    life.twin = next(s for s in estate.client.items("/servers") if s["name"] == name)
    assert estate.audit() == []
    assert estate.boot_id(life.server) == life.boot
    assert life.sh("pidof python3") == process, "it was not stopped"
    kept = int(sh(estate, life.twin, "python3 /root/check.py"))
    assert kept >= written, "what was written before is in the clone, and nothing is torn"
    after = life.count()
    assert after > kept, "the source goes on"
    gap = float(life.sh(f"kill -STOP {process}; python3 -c '{GAPS}'; kill -CONT {process}"))
    print(f"the writer stood still for {gap:.2f} s at most")  # noqa: T201
    assert gap < GAP_SECONDS
    (disk,) = [entry for entry in files(estate, life.twin) if entry.endswith(".qcow2")]
    assert server_of(files(estate, life.twin)[disk]) == UUID(life.server["id"])


def test_nothing_in_the_clone_is_its_sources(estate: Estate, life: Writer) -> None:
    different(estate, life.server, life.twin, names=IDENTITY | {"client-id"})
    for fact in ("address", "mac", "ssh_port", "host_key"):
        assert life.server[fact] != life.twin[fact]
    operation = next(estate.client.items("/operations", server_id=life.twin["id"]))
    assert [step["name"] for step in operation["steps"]][-1] == "verify-identity"


def test_a_parent_is_not_deleted_under_its_clone(estate: Estate, life: Writer) -> None:
    for verb in ("delete", "rebuild"):
        with pytest.raises(CliFailure, match=f"stand on its disk: {life.twin['name']}"):
            estate.act(life.server, verb)
    path = f"/servers/{life.server['id']}/snapshots"
    (frozen,) = list(estate.client.items(path))
    with pytest.raises(CliFailure, match=f"{life.twin['name']}. Flatten"):
        estate.client.delete(f"{path}/{frozen['id']}")
    listed = estate.client.items(f"/servers/{life.server['id']}/clones")
    assert [entry["name"] for entry in listed] == [life.twin["name"]]


def test_flattened_live_the_clone_stands_alone_and_the_parent_can_go(
    estate: Estate, life: Writer
) -> None:
    boot = estate.boot_id(life.twin)
    kept = int(sh(estate, life.twin, "python3 /root/check.py"))
    estate.done(estate.act(life.twin, "flatten"))
    assert estate.boot_id(life.twin) == boot
    (disk,) = [entry for entry in files(estate, life.twin) if entry.endswith(".qcow2")]
    assert files(estate, life.twin)[disk].startswith("image-")
    estate.reconcile()
    path = f"/servers/{life.server['id']}/snapshots"
    eventually(lambda: not list(estate.client.items(path)), what="the merge of what was frozen")
    assert estate.audit() == []
    life.sh("kill $(pidof python3); python3 /root/check.py")
    deleted(estate, life.server)
    assert files(estate, life.server) == {}
    sh(estate, life.twin, "echo 3 > /proc/sys/vm/drop_caches")
    assert int(sh(estate, life.twin, "python3 /root/check.py")) == kept
    estate.done(estate.act(life.twin, "reboot", mode="hard"))
    assert int(sh(estate, life.twin, "python3 /root/check.py")) == kept
    assert estate.audit() == []


def test_a_killed_clone_is_resumed_and_its_source_thawed(estate: Estate, life: Writer) -> None:
    source = life.twin
    domain = connect(estate.host(source["host"]).uri).lookupByUUIDString(source["id"])
    operation = estate.killed(
        "clone",
        "capture-before",
        lambda: clone(estate, source, unique("resumed"), quiesce="required"),
    )
    with pytest.raises(CliFailure, match=f"Operation {operation['id']} is at work"):
        estate.act(source, "stop")
    domain.fsFreeze()  # as a libvirtd that died between freeze and thaw leaves it
    estate.start_worker()
    twin = estate.done(operation)
    said = libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-fsfreeze-status"}', 10, 0)
    assert "thawed" in said
    assert estate.audit() == []
    different(estate, source, twin, names=IDENTITY)
    assert int(sh(estate, twin, "python3 /root/check.py")) > 200
    deleted(estate, twin)


def test_a_full_clone_of_a_stopped_server_with_keys_and_a_size_of_its_own(
    estate: Estate, life: Writer, tmp_path: Path
) -> None:
    source = life.twin
    keys = [tmp_path / "old", tmp_path / "new"]
    for key in keys:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    old, new = (key.with_suffix(".pub").read_text().strip() for key in keys)
    sh(estate, source, f"echo '{old}' >> /home/debian/.ssh/authorized_keys; sync")
    estate.done(estate.act(source, "stop"))
    wish = {"ssh_keys": [new], "disk_gib": source["disk_gib"] + 1, "mode": "full"}
    twin = estate.done(clone(estate, source, unique("full"), **wish))
    assert estate.server(source)["status"] == "stopped"
    assert int(sh(estate, twin, "python3 /root/check.py")) > 200
    (disk,) = [entry for entry in files(estate, twin) if entry.endswith(".qcow2")]
    assert files(estate, twin)[disk].startswith("image-")
    deleted(estate, source)
    size = int(sh(estate, twin, "df -m / | tail -n 1").split()[1])
    assert size > source["disk_gib"] * 1000, "its file system has grown"
    known = sh(estate, twin, "cat /home/debian/.ssh/authorized_keys")
    assert new in known
    assert old not in known
    with pytest.raises(LoginRefused):
        _login_with(estate, twin, keys[0])
    deleted(estate, twin)
    assert estate.audit() == []


def _login_with(estate: Estate, server: Json, key: Path) -> str:
    from innkeeper.settings import settings  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(settings()), "identity_file", key)
        return login(estate.target(server), ["true"], timeout=20.0)
