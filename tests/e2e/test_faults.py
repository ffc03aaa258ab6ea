"""Faults on real hosts: a create goes on by itself, or is undone with a reason for people.

What can wait for nothing but time is begun first and looked at last.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import psutil
import pytest

from e2e.estate import Estate, eventually, unique
from e2e.faults import (
    FULL,
    QUIET_SECONDS,
    create_on,
    disk,
    empty,
    filled,
    hosts,
    imported,
    only,
    quiet,
    reached,
    refused,
    resize,
    small_pool,
    step_of,
    working,
)
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.domain.naming import bridge_name
from innkeeper.lab import daemons
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings
from innkeeper.stack import lifecycle
from innkeeper.stack.programs import POSTGRES, PREFECT

REACHABLE_SECONDS = 180
__all__ = ["small_pool"]


@pytest.fixture(scope="module", autouse=True)
def _impatient(estate: Estate) -> Iterator[None]:
    """Wait for guests no longer than these tests can; leave an empty estate."""
    empty(estate)
    name = "INNKEEPER_REACHABLE_SECONDS"
    usual, os.environ[name] = os.environ[name], str(REACHABLE_SECONDS)
    lifecycle.up()
    yield
    os.environ[name] = usual
    lifecycle.up()
    empty(estate)


@pytest.fixture(scope="module")
def void(estate: Estate, _impatient: None) -> str:
    """Import an image from which no guest ever boots; return its name."""
    name = unique("void")
    image = imported(estate, name, disk(f"{name}.qcow2", "64M"))
    assert image["phase"] == "ready", image["error"]
    return name


@pytest.fixture(scope="module", autouse=True)
def silent(estate: Estate, void: str, small_pool: HostLayout) -> Json:
    """Begin the create of a guest that never answers, where no libvirtd restarts meanwhile.

    A restart would have the waiting begin anew.
    """
    del small_pool
    return create_on(estate, FULL, "silent", image=void)


@pytest.fixture(scope="module")
def lost(estate: Estate, void: str, small_pool: HostLayout) -> Iterator[Json]:
    """Take a host's libvirtd away while a create there waits for its guest; return the create."""
    del small_pool  # bringing its host up later would bring this one back
    operation = reached(estate, create_on(estate, "lab2", "lost", image=void), "reachable")
    daemons.stop(estate.layout("lab2"))
    yield operation
    estate.lab.up(2)


def test_host_without_answer_gets_no_new_server(estate: Estate, lost: Json) -> None:
    eventually(lambda: not hosts(estate)["lab2"]["reachable"], seconds=30, what="lab2 noticed")
    with only(estate, "lab2"), pytest.raises(CliFailure, match=r"lab2.*the host does not answer"):
        estate.create(unique("nowhere"))
    assert estate.operation(lost)["phase"] == "running"


def test_corrupt_image_never_becomes_usable(estate: Estate, void: str) -> None:
    del void
    whole = max(settings().image_store.glob("*.qcow2"), key=lambda f: f.stat().st_size)
    broken = settings().home / "imports" / "broken.qcow2"
    broken.write_bytes(whole.read_bytes()[: 30 << 20])
    name = unique("broken")
    image = imported(estate, name, broken)
    assert image["phase"] == "failed"
    assert "damaged" in image["error"] or "corrupt" in image["error"], image["error"]
    with pytest.raises(CliFailure, match="is failed, not ready"):
        estate.create(unique("never"), image=name)
    estate.client.delete(f"/images/{image['id']}")


def test_image_whose_file_is_gone(estate: Estate, void: str) -> None:
    del void
    name = unique("gone")
    image = imported(estate, name, disk(f"{name}.qcow2", "65M"))
    (settings().image_store / f"{image['sha256']}.qcow2").unlink()
    refused(estate, create_on(estate, "lab1", "gone", image=name), "missing", "import the image")
    quiet(estate)


def test_full_pool(estate: Estate, small_pool: HostLayout) -> None:
    """First without room for the image, then it fills up under a guest, then under a create."""
    refused(estate, create_on(estate, FULL, "full"), "no space left")
    resize(small_pool, "400m")
    booting = reached(estate, create_on(estate, FULL, "paused"), "reachable")
    eventually(lambda: estate.qemu(estate.server(booting)), what="QEMU")
    filler = small_pool.pool / "filler"  # beside the pool, in its file system
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    refused(estate, create_on(estate, FULL, "refused"), "no space left", "free space in the pool")
    refused(estate, booting, "no space left", "free space")
    filler.unlink()
    quiet(estate)


def test_pool_fills_up_under_snapshots_and_clones(
    estate: Estate, small_pool: HostLayout, silent: Json
) -> None:
    """In the middle of each, when something is made already: it is undone, and the source goes on.

    What happens on a full shelf is in test_shelving.py.
    """
    resize(small_pool, "400m")
    source = working(estate, create_on(estate, FULL, "source"))
    noise = "dd if=/dev/urandom of=/root/noise bs=1M count=24 2>/dev/null; sync"
    estate.login(source, ["sudo", "sh", "-c", noise], timeout=60.0)
    digest = estate.login(source, ["sudo", "sha256sum", "/root/noise"])

    def files() -> int:  # without the silent guest's, which go when its time is over
        pool = small_pool.pool / "pool"
        return len([file for file in pool.iterdir() if silent["server_id"] not in file.name])

    boot, before = estate.boot_id(source), files()
    path = f"/servers/{source['id']}"
    requests: list[tuple[int, str, Json, str]] = [
        (12 << 20, f"{path}/snapshots", {"name": "memory", "memory": True}, "capture"),
        (12 << 20, f"{path}/clones", {"name": unique("full"), "mode": "full"}, "copy"),
        (1 << 20, f"{path}/clones", {"name": unique("linked")}, "reachable"),
    ]
    for leaving, where, body, step in requests:
        with filled(small_pool, leaving=leaving):
            ended = estate.wait(estate.client.post(where, body))
        assert ended["phase"] == "failed"
        print(f"{body}: {ended['error']}")  # noqa: T201 - for the report
        assert step_of(ended, step), "it was in the middle"
        assert "no space left" in ended["error"].lower()
        assert "free" in ended["error"].lower(), "it says what to do"
        assert [process.status() for process in estate.qemu(source)] != []
        assert estate.server(source)["status"] == "active"
        assert estate.boot_id(source) == boot
        assert estate.login(source, ["sudo", "sha256sum", "/root/noise"]) == digest
        for server in list(estate.client.items("/servers")):
            if server["name"] == body["name"]:
                estate.done(estate.act(server, "delete"))
        estate.reconcile()  # what was frozen for a clone that never came to be
        eventually(lambda: files() == before, seconds=QUIET_SECONDS, what="the files as before")
        quiet(estate)


def test_terraform_fails(estate: Estate, void: str) -> None:
    """A bridge of somebody else has the name that the project's network needs."""
    project = estate.client.post("/projects", {"name": unique("taken")})
    host = hosts(estate)["lab1"]
    bridge = bridge_name(UUID(project["id"]), UUID(host["id"]))
    enter = estate.layout("lab1").enter
    subprocess.run(enter(["ip", "link", "add", bridge, "type", "bridge"]), check=True)

    def create() -> Json:
        body = {"name": unique("bridge"), "image": void, "plan": "tiny"}
        with only(estate, "lab1"):
            answer: Json = estate.client.post("/servers", body, project=project["name"])
        return answer

    refused(estate, create(), "Terraform could not apply", bridge)
    quiet(estate)
    subprocess.run(enter(["ip", "link", "delete", bridge]), check=True)
    operation = reached(estate, create(), "reachable")  # what was in the way is gone
    estate.client.post(f"/operations/{operation['id']}/cancel")
    refused(estate, operation, "cancelled", phase="cancelled")


def test_cancelled_in_api_and_in_prefect(estate: Estate, void: str) -> None:
    by_api = create_on(estate, "lab1", "cancel-api", image=void)
    by_prefect = create_on(estate, "lab1", "cancel-prefect", image=void)
    begun = time.monotonic()
    reached(estate, by_api, "reachable")
    flow_run = reached(estate, by_prefect, "reachable")["flow_run_id"]
    estate.client.post(f"/operations/{by_api['id']}/cancel")
    wish = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    estate.prefect("POST", f"/flow_runs/{flow_run}/set_state", wish)
    refused(estate, by_api, "cancelled", phase="cancelled")
    refused(estate, by_prefect, "cancelled", phase="cancelled")
    assert time.monotonic() - begun < REACHABLE_SECONDS, "it did not wait for the guest's deadline"
    eventually(
        lambda: estate.prefect("GET", f"/flow_runs/{flow_run}")["state_type"] == "CANCELLED",
        what="the run in Prefect",
    )
    assert [estate.qemu(estate.server(op)) for op in (by_api, by_prefect)] == [[], []]
    quiet(estate)


def test_libvirtd_restarts_and_qemu_dies(estate: Estate) -> None:
    through = create_on(estate, "lab1", "restarted")
    for _ in range(2):  # wherever the create is by now
        estate.lab.restart("lab1")
        time.sleep(1)
    killed = create_on(estate, "lab1", "killed")
    reached(estate, killed, "reachable")
    (qemu,) = eventually(lambda: estate.qemu(estate.server(killed)), what="QEMU")
    born = qemu.create_time()
    qemu.kill()
    estate.lab.restart("lab1")
    servers = [working(estate, through), working(estate, killed)]
    assert (step_of(estate.operation(killed), "reachable") or {})["tries"] > 1
    (again,) = estate.qemu(servers[1])
    assert again.create_time() > born
    quiet(estate)


def test_ansible_fails(estate: Estate) -> None:
    role = {"name": "static-site", "variables": {"page": "hello", "listen_port": 70000}}
    operation = create_on(estate, "lab1", "role", roles=[role])
    refused(estate, operation, "static-site", "a TCP port is between 1 and 65535")
    quiet(estate)


def test_prefect_server_restarts(estate: Estate) -> None:
    """What runs goes on, what is asked for meanwhile is accepted and begun afterwards."""
    before = create_on(estate, "lab1", "prefect-before")
    reached(estate, before, "reachable")
    estate.supervisor.stop(PREFECT)
    try:
        meanwhile = create_on(estate, "lab1", "prefect-meanwhile")
        time.sleep(5)
        assert estate.operation(meanwhile)["phase"] == "queued"
    finally:
        estate.supervisor.start(PREFECT)
    working(estate, before)
    working(estate, meanwhile)
    quiet(estate)


def test_postgresql_restarts(estate: Estate) -> None:
    operation = create_on(estate, "lab1", "postgres")
    reached(estate, operation, "reachable")
    estate.supervisor.stop(POSTGRES)
    time.sleep(3)
    estate.supervisor.start(POSTGRES)

    def answers() -> bool:
        try:
            return bool(estate.operation(operation))
        except CliFailure:
            return False

    eventually(answers, seconds=60, what="the API")
    working(estate, operation)
    quiet(estate)


def test_host_comes_back(estate: Estate, lost: Json) -> None:
    """The create was undone as far as that went; what it left is reaped once the host is back."""
    refused(estate, lost, "libvirt", "lab2", "check that libvirtd runs there")
    orphans = estate.qemu(estate.server(lost))
    assert [process.status() for process in orphans] != [], "the guest ran on without libvirtd"
    estate.lab.restart("lab2")
    eventually(lambda: hosts(estate)["lab2"]["reachable"], seconds=60, what="lab2 noticed")
    estate.reconcile()
    quiet(estate)
    psutil.wait_procs(orphans, timeout=10)
    assert estate.qemu(estate.server(lost)) == []
    assert hosts(estate)["lab2"]["servers"] == 0


def test_guest_that_never_answers(estate: Estate, silent: Json) -> None:
    refused(estate, silent, "nobody could log in", f"within {REACHABLE_SECONDS} s", "console")
    assert estate.qemu(estate.server(silent)) == []
    quiet(estate)


def test_nothing_is_stuck(estate: Estate) -> None:
    estate.clear()
    assert estate.audit() == []
    operations = list(estate.client.items("/operations"))
    assert [o for o in operations if o["phase"] in {"queued", "running"}] == []
    assert {host["servers"] for host in hosts(estate).values()} == {0}
