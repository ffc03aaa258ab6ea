"""A stack of the benchmarks' own: a home, ports and a lab host that nobody else uses."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.disposable import DisposableStack, disposable_stack
from innkeeper.cli.client import Client, Json
from innkeeper.lab import images as guests
from innkeeper.lab.fleet import LabHost

FIRST_INDEX = 60
IMAGE_SECONDS = 300.0
OPERATION_SECONDS = 300.0
_KEPT = ("INNKEEPER_CACHE", "INNKEEPER_ACCELERATOR", "INNKEEPER_WORKER_LIMIT")


class BenchmarkFailed(Exception):
    """What was to be measured did not happen; the text says what."""


@dataclass
class Estate:
    """A running stack; the lab host and its image come with the first benchmark that asks."""

    home: Path
    client: Client
    _stack: DisposableStack
    _lab_host: LabHost | None = None
    image_id: str = ""

    def lab_host(self) -> LabHost:
        """Return the lab host `lab1`, registered, with the image `tiny` ready."""
        if self._lab_host is None:
            lab = self._stack.add_lab_hosts(1, first_index=FIRST_INDEX)
            self.tiny_image()
            self._lab_host = lab.hosts()[0]
        return self._lab_host

    def second_host(self) -> LabHost:
        """Return the lab host `lab2`, registered beside `lab1`."""
        self.lab_host()
        return self._stack.add_lab_hosts(2, first_index=FIRST_INDEX).hosts()[1]

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


@contextmanager
def open_estate() -> Iterator[Estate]:
    """Bring a stack up; nothing of it is left afterwards."""
    with disposable_stack("ik-bench-", {"INNKEEPER_RATE_LIMIT": "1000000/minute"}, _KEPT) as stack:
        project = next(stack.client.items("/projects"))
        unlimited = {"servers": -1, "vcpus": -1, "memory_mib": -1, "disk_gib": -1}
        stack.client.put(f"/projects/{project['id']}/quota", unlimited)
        yield Estate(stack.home, stack.client, stack)
