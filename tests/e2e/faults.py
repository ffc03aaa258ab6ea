"""What faults are made of, silent and full hosts, broken images, and waiting for what they do."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from e2e.estate import Estate, eventually, unique
from innkeeper.cli.client import Json
from innkeeper.cli.failures import CliFailure
from innkeeper.lab import host as lab_host
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings

STEP_SECONDS = 120.0
QUIET_SECONDS = 90.0
FULL = "lab3"
"""The host with a pool of the size that a test wants."""


def register(estate: Estate, name: str) -> Json:
    """Tell the API of a lab host whose pool is in a file system of its own."""
    host = estate.host(name)
    body = {
        "name": name,
        "uri": host.uri,
        "channel": host.channel_address,
        "edge_address": host.edge_address,
        "pool_path": f"{host.pool_path}/pool",
        "memory_mib": 4096,
        "vcpus": 16,
        "disk_gib": 100,
    }
    answer: Json = estate.client.post("/hosts", body)
    return answer


def hosts(estate: Estate) -> dict[str, Json]:
    """Return the hosts as the API shows them, by name."""
    return {host["name"]: host for host in estate.client.items("/hosts")}


@contextmanager
def only(estate: Estate, *names: str) -> Iterator[None]:
    """Let new servers land on these hosts alone."""
    known = hosts(estate)
    others = [host for name, host in known.items() if name not in names]
    for host in others:
        estate.client.patch(f"/hosts/{host['id']}", {"enabled": False})
    try:
        yield
    finally:
        for host in others:
            estate.client.patch(f"/hosts/{host['id']}", {"enabled": True})


def create_on(estate: Estate, host: str, name: str, **fields: object) -> Json:
    """Ask for a server on a certain host; return the operation."""
    with only(estate, host):
        return estate.create(unique(name), **fields)


def step_of(operation: Json, name: str) -> Json | None:
    """Return a step that has begun, or nothing."""
    return next((step for step in operation["steps"] if step["name"] == name), None)


def reached(estate: Estate, operation: Json, step: str) -> Json:
    """Return the operation as soon as it is in, or past, a step."""

    def begun() -> Json | None:
        current = estate.operation(operation)
        assert step_of(current, step) or current["phase"] in {"queued", "running"}, current["error"]
        return current if step_of(current, step) else None

    current: Json = eventually(begun, seconds=STEP_SECONDS, pause=0.1, what=f"step {step}")
    return current


def refused(estate: Estate, operation: Json, *words: str, phase: str = "failed") -> Json:
    """Wait for an operation that has to be undone; its reason, and its server's, has the words."""
    ended = estate.wait(operation)
    assert ended["phase"] == phase, ended
    server = estate.server(ended)
    assert (server["status"], server["operation_id"]) == ("error", None)
    assert server["fault"] == ended["error"]
    for word in words:
        assert word.lower() in ended["error"].lower(), ended["error"]
    print(f"{ended['server']} ended as {phase}: {ended['error']}")  # noqa: T201 - for the report
    return ended


def working(estate: Estate, operation: Json) -> Json:
    """Wait for a create that has to succeed; log in to its server and return that."""
    server = estate.done(operation)
    assert estate.login(server, ["cat", "/proc/sys/kernel/hostname"]).strip() == server["name"]
    return server


def quiet(estate: Estate) -> None:
    """Insist that soon nothing is left, but a host that is away; reconcile may have to reap."""

    def findings() -> list[Json]:
        away = {name for name, host in hosts(estate).items() if not host["reachable"]}
        return [f for f in estate.audit() if f["kind"] != "host" or f["host"] not in away]

    eventually(
        lambda: not findings(), seconds=QUIET_SECONDS, pause=0.5, what=f"{findings()} is gone"
    )


def disk(name: str, *size: str) -> Path:
    """Return an empty qcow2 disk where images may be imported from: nothing boots from it."""
    folder = settings().home / "imports"
    folder.mkdir(mode=0o700, exist_ok=True)
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(folder / name), *size]
    subprocess.run(argv, check=True)
    return folder / name


def imported(estate: Estate, name: str, source: Path) -> Json:
    """Import an image and return it once it is ready or failed."""
    image = estate.client.post("/images", {"name": name, "source": str(source)})

    def settled() -> Json | None:
        current: Json = estate.client.get(f"/images/{image['id']}")
        return current if current["phase"] in {"ready", "failed"} else None

    current: Json = eventually(settled, seconds=120, what=f"image {name}")
    return current


def resize(layout: HostLayout, size: str) -> None:
    """Give the small pool another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(layout.pool)], check=True)


def empty(estate: Estate) -> None:
    """Cancel what a failed test left under way, then delete every server."""
    for server in list(estate.client.items("/servers")):
        _cancel(estate, server)
    estate.clear()


def _cancel(estate: Estate, server: Json) -> None:
    """Cancel what is under way with a server, if that can be, and wait for its end."""
    if server["operation_id"]:
        operation = estate.client.get(f"/operations/{server['operation_id']}")
        with suppress(CliFailure):
            estate.client.post(f"/operations/{operation['id']}/cancel")
        estate.wait(operation)


@contextmanager
def filled(layout: HostLayout, *, leaving: int) -> Iterator[None]:
    """Fill the small pool but for so many bytes."""
    free = os.statvfs(layout.pool)
    filler = layout.pool / "filler"  # beside the pool, in its file system
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - leaving)
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def small_pool(estate: Estate) -> Iterator[HostLayout]:
    """Run a third host, whose pool has no room for even one image yet."""
    layout = estate.layout(FULL)
    layout.pool.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "innkeeper-pool", str(layout.pool)],
        check=True,
    )
    try:
        estate.lab.up(3)
        register(estate, FULL)
        yield layout
        for server in list(estate.client.items("/servers")):
            if server["host"] == FULL:
                _cancel(estate, server)
                estate.done(estate.act(server["id"], "delete"))
        estate.client.delete(f"/hosts/{hosts(estate)[FULL]['id']}")
    finally:
        lab_host.tear_down(layout)
        subprocess.run(["umount", "--lazy", str(layout.pool)], check=True)
        lab_host.purge(layout)
