"""A stack of the benchmarks' own: a home, ports and a lab host that nobody else uses."""

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innkeeper import dispatch
from innkeeper.cli.client import Client, Json
from innkeeper.db.session import engine_for
from innkeeper.hypervisor.connection import forget
from innkeeper.lab import images as guests
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.settings import settings
from innkeeper.stack import lifecycle
from innkeeper.stack.config import cluster_folder
from innkeeper.stack.hooks import deploy, migrate

FIRST_INDEX = 60
IMAGE_SECONDS = 300.0
OPERATION_SECONDS = 300.0
_OURS = ("INNKEEPER_", "PREFECT_", "DATABASE_URL")


class BenchmarkFailed(Exception):
    """What was to be measured did not happen; the text says what."""


@dataclass
class Estate:
    """A running stack; the lab host and its image come with the first benchmark that asks."""

    home: Path
    client: Client
    _undo: ExitStack
    _lab_host: LabHost | None = None
    image_id: str = ""

    def lab_host(self) -> LabHost:
        """Return the lab host `lab1`, registered, with the image `tiny` ready."""
        if self._lab_host is None:
            lab = Lab(self.home, first_index=FIRST_INDEX)
            self._undo.callback(lab.down, purge=True)
            host = lab.up(1)[0]
            self._undo.callback(forget, host.uri)
            body = {
                "name": host.name,
                "uri": host.uri,
                "channel": host.channel_address,
                "edge_address": host.edge_address,
                "pool_path": host.pool_path,
                "memory_mib": 4096,
                "vcpus": 16,
            }
            self.client.post("/hosts", body)
            self.tiny_image()
            self._lab_host = host
        return self._lab_host

    def tiny_image(self) -> Json:
        """Return the image `tiny`, imported when it is not there yet."""
        if not self.image_id:
            source = guests.ensure_image("tiny", lambda _text, _fraction: None)
            made = self.client.post("/images", {"name": "tiny", "source": str(source)})
            self.image_id = made["id"]
        path = f"/images/{self.image_id}"
        until(lambda: self.client.get(path)["phase"] in {"ready", "failed"}, IMAGE_SECONDS)
        image: Json = self.client.get(path)
        if image["phase"] != "ready":
            raise BenchmarkFailed(f"The image was not imported: {image['error']}")
        return image

    def enable_only(self, names: set[str]) -> None:
        """Let placement see only these hosts."""
        for host in self.client.items("/hosts"):
            self.client.patch(f"/hosts/{host['id']}", {"enabled": host["name"] in names})

    def ended(self, operation: Json) -> Json:
        """Return an operation when it has ended, however that was."""
        path = f"/operations/{operation['id']}"
        until(
            lambda: self.client.get(path)["phase"] not in {"queued", "running"}, OPERATION_SECONDS
        )
        answer: Json = self.client.get(path)
        return answer


def until(ask: Callable[[], Any], seconds: float, pause: float = 0.2) -> None:
    """Wait for a true answer.

    Raises:
        BenchmarkFailed: none came in time.
    """
    deadline = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(
                f"Nothing came of it within {seconds:.0f} s: see the stack's logs."
            )
        time.sleep(pause)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _forget() -> None:
    """Drop what this process remembers of a home."""
    engine_for(settings().database_url).dispose()
    engine_for.cache_clear()
    dispatch.starter().close()
    settings.cache_clear()


@contextmanager
def _environment(home: Path) -> Iterator[None]:
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(_OURS):
            del os.environ[name]
    postgres, prefect, api = _free_ports(3)
    os.environ |= {
        "INNKEEPER_HOME": str(home),
        "INNKEEPER_POSTGRES_PORT": str(postgres),
        "INNKEEPER_PREFECT_PORT": str(prefect),
        "INNKEEPER_API_PORT": str(api),
        "INNKEEPER_RATE_LIMIT": "1000000/minute",
    }
    kept = ("INNKEEPER_CACHE", "INNKEEPER_ACCELERATOR", "INNKEEPER_WORKER_LIMIT")
    os.environ |= {name: before[name] for name in kept if name in before}
    settings.cache_clear()
    try:
        yield
    finally:
        _forget()
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()


@contextmanager
def open_estate() -> Iterator[Estate]:
    """Bring a stack up; nothing of it is left afterwards."""
    home = Path(tempfile.mkdtemp(prefix="ik-bench-"))
    try:
        with _environment(home), ExitStack() as undo:
            undo.callback(shutil.rmtree, cluster_folder(home), ignore_errors=True)
            undo.callback(lifecycle.down)
            lifecycle.up(hooks=lifecycle.Hooks(migrate=migrate, deploy=deploy))
            settings.cache_clear()
            key = (home / "admin.key").read_text().strip()
            client = undo.enter_context(Client(settings().api_url, key))
            project = next(client.items("/projects"))
            unlimited = {"servers": -1, "vcpus": -1, "memory_mib": -1, "disk_gib": -1}
            client.put(f"/projects/{project['id']}/quota", unlimited)
            yield Estate(home, client, undo)
    finally:
        shutil.rmtree(home, ignore_errors=True)
