"""The whole stack and two lab hosts in a home of their own, and ways to use them."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import httpx
import psutil

from benchmarks.disposable import disposable_stack
from e2e.traces import traces
from innkeeper import dispatch
from innkeeper.cli.client import Client, Json
from innkeeper.cli.failures import CliFailure
from innkeeper.configuration import login
from innkeeper.configuration.target import Target
from innkeeper.lab import images as guests
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import Settings, settings
from innkeeper.stack import lifecycle
from innkeeper.stack.config import StackConfig
from innkeeper.stack.programs import (
    CHECKOUT,
    WORKER,
    Program,
    prefect_client_environment,
    programs,
)
from innkeeper.stack.supervisor import Supervisor

FIRST_INDEX = 100
STALE_SECONDS = 5.0
REACHABLE_SECONDS = 480.0  # many guests at once, emulated, on a machine that has other work
OPERATION_SECONDS = 540.0
DEATH_SECONDS = 120.0
FAILED = {"failed", "cancelled"}


class OperationFailed(AssertionError):
    """An operation that should have succeeded did not."""


def eventually(
    ask: Callable[[], Any], *, seconds: float = 30.0, pause: float = 0.2, what: str = ""
) -> Any:
    """Return the first true answer; fail with the last one when none came in time."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what or ask} ({answer})"
        time.sleep(pause)
    return answer


def points_of(home: Path) -> Path:
    """Return the file that says where the worker of a home has to die."""
    return home / "points"


def pause_of(home: Path) -> Path:
    """Return the file that keeps the worker of a dead one from beginning."""
    return home / "pause"


@dataclass
class Estate:
    """A running stack with two hosts, `lab1` and `lab2`, and the image `tiny`."""

    home: Path
    lab: Lab
    client: Client
    supervisor: Supervisor

    # The API

    def create(self, name: str, **fields: Any) -> Json:
        """Ask for a server (image and plan `tiny` unless told otherwise); return the operation."""
        body: Json = {"name": name, "image": "tiny", "plan": "tiny"} | fields
        answer: Json = self.client.post("/servers", body)
        return answer

    def act(self, server: str | Json, verb: str, **body: Any) -> Json:
        """Ask for a verb (`delete` too) on a server, by id or view; return the operation."""
        server_id = server if isinstance(server, str) else server["id"]
        answer: Json
        if verb == "delete":
            answer = self.client.delete(f"/servers/{server_id}")
        else:
            answer = self.client.post(f"/servers/{server_id}/actions/{verb}", body or None)
        return answer

    def operation(self, operation: Json) -> Json:
        """Return the operation as it is now."""
        answer: Json = self.client.get(f"/operations/{operation['id']}")
        return answer

    def server(self, subject: Json | str) -> Json:
        """Return a server as it is now; the subject is its id, its view, or an operation on it."""
        server_id = subject if isinstance(subject, str) else subject.get("server_id", subject["id"])
        answer: Json = self.client.get(f"/servers/{server_id}")
        return answer

    def wait(self, operation: Json, *, seconds: float = OPERATION_SECONDS) -> Json:
        """Return the operation when it has ended, however that was."""
        begun = time.monotonic()
        while operation["phase"] in {"queued", "running"}:
            taken = time.monotonic() - begun
            if taken > seconds:
                steps = [(s["name"], s["state"], s["detail"]) for s in operation["steps"]]
                raise OperationFailed(
                    f"{operation['verb']} of {operation['server']} is {operation['phase']} after "
                    f"{seconds:.0f} s: {steps}\n{self.supervisor.log_tail(WORKER, 4000)}"
                )
            time.sleep(0.1 + min(0.4, taken / 20))  # what takes long is asked for less often
            operation = self.operation(operation)
        return operation

    def done(self, operation: Json, *, seconds: float = OPERATION_SECONDS) -> Json:
        """Wait for an operation that has to succeed; return the server."""
        ended = self.wait(operation, seconds=seconds)
        if ended["phase"] != "succeeded":
            raise OperationFailed(
                f"{ended['verb']} of {ended['server']} has {ended['phase']}: {ended['error']}"
            )
        return self.server(ended)

    def audit(self) -> list[Json]:
        """Return the differences between hosts and database; there should be none."""
        return list(self.client.items("/audit"))

    def events(self, server: Json, kind: str | None = None) -> list[Json]:
        """Return the events of a server."""
        return list(self.client.items("/events", server_id=server["id"], kind=kind))

    def image(self, name: str, *, firmware: str = "bios", seconds: float = 300.0) -> Json:
        """Return a lab image that is ready, built and imported when it is not there yet."""
        known = {entry["name"]: entry for entry in self.client.items("/images")}
        image = known.get(name)
        if image is None:
            source = str(guests.ensure_image(name, lambda _text, _fraction: None))
            asked = {"name": name, "source": source, "firmware": firmware}
            image = self.client.post("/images", asked)

        def settled() -> Json | None:
            current: Json = self.client.get(f"/images/{image['id']}")
            return current if current["phase"] in {"ready", "failed"} else None

        current: Json = eventually(settled, seconds=seconds, what=f"image {name}")
        assert current["phase"] == "ready", current["error"]
        return current

    # Guests

    def target(self, server: Json) -> Target:
        """Return where and as whom to log in, and the host key that the guest has to show."""
        return Target(
            host=server["edge_address"],
            port=server["ssh_port"],
            user=server["ssh_user"],
            host_key=server["host_key"],
        )

    def login(self, server: Json, argv: Sequence[str], *, timeout: float = 30.0) -> str:
        """Run a command in a guest over its forward; its host key is checked strictly."""
        return login.run(self.target(server), argv, timeout=timeout)

    def boot_id(self, server: Json) -> str:
        """Return the boot that a guest is in; a reboot changes it."""
        return self.login(server, ["cat", "/proc/sys/kernel/random/boot_id"]).strip()

    def host(self, name: str) -> LabHost:
        """Return a lab host by its name."""
        return {host.name: host for host in self.lab.hosts()}[name]

    def layout(self, name: str) -> HostLayout:
        """Return where a lab host keeps its things, and how to get into it."""
        return HostLayout(self.lab.root, name)

    def qemu(self, server: Json) -> list[psutil.Process]:
        """Return the QEMU processes of a server."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.info["cmdline"]
            and process.info["cmdline"][0].endswith("qemu-system-x86_64")
            and server["id"] in process.info["cmdline"]
        ]

    # The stack's programs

    def pid(self, program: str) -> int:
        """Return the process id of one of the stack's programs (0: it does not run)."""
        return int(self.supervisor.states()[program]["pid"])

    def kill(self, program: str) -> None:
        """SIGKILL a program; supervisord starts it again."""
        os.kill(self.pid(program), signal.SIGKILL)

    def kill_worker(self) -> None:
        """SIGKILL the warm worker; supervisord starts it again."""
        self.kill(WORKER)

    @contextmanager
    def dying(self, verb: str, *points: str) -> Iterator[None]:
        """Let the worker of a verb die by SIGKILL at each point (`STEP-MOMENT`) in turn.

        Supervisord starts the next one, which resumes the operation. To be left when that has
        ended: it must have come to every point.
        """
        self._kill_at(verb, *points)
        yield
        assert not self._points.exists(), f"not reached: {self._points.read_text()}"

    def killed(self, verb: str, point: str, ask: Callable[[], Json]) -> Json:
        """Ask for a verb whose worker dies at a point, and return the operation.

        Nobody goes on with it, or does anything else, before `start_worker`.
        """
        self._pause.touch()
        worker = psutil.Process(eventually(lambda: self.pid(WORKER), what="a worker"))
        self._kill_at(verb, point)
        operation = ask()
        eventually(
            lambda: not worker.is_running(),
            seconds=DEATH_SECONDS,
            what=f"{verb} reaches {point}: {self.operation(operation)}",
        )
        assert not self._points.exists(), "it died of something else"
        return operation

    def start_worker(self) -> None:
        """Let the worker of a dead one begin, which reconciles first; no more have to die."""
        self._points.unlink(missing_ok=True)
        self._pause.unlink(missing_ok=True)

    def _kill_at(self, verb: str, *points: str) -> None:
        lines = [f"{verb} {' '.join(point.rsplit('-', 1))}" for point in points]
        written = self._points.with_suffix(".new")
        written.write_text("\n".join(lines))
        written.replace(self._points)

    @property
    def _points(self) -> Path:
        return points_of(self.home)

    @property
    def _pause(self) -> Path:
        return pause_of(self.home)

    def environment(self) -> dict[str, str]:
        """Return an environment in which a program belongs to this estate."""
        return {
            **os.environ,
            **prefect_client_environment(settings()),
            "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}",
        }

    def cli(
        self, *arguments: str, timeout: float = 240.0, code: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command line as people do; it has to end with the exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "innkeeper.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=CHECKOUT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the stack's Prefect server; return the answer's JSON."""
        url = settings().prefect_api_url + path
        answer = httpx.request(method, url, json=body, timeout=30.0, trust_env=False)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def run_deployment(self, name: str, **parameters: Any) -> UUID:
        """Start a deployment with parameters, as the form of the Prefect UI does."""
        deployment = self.prefect("GET", f"/deployments/name/{name}")["id"]
        run = self.prefect(
            "POST", f"/deployments/{deployment}/create_flow_run", {"parameters": parameters}
        )
        return UUID(run["id"])

    def reconcile(self) -> None:
        """Have reconcile run now, and return when it has ended."""
        self.run_through("reconcile/reconcile")

    def run_through(self, deployment: str) -> None:
        """Start a deployment without parameters, and return when its run has ended."""
        flow_run = self.run_deployment(deployment)
        eventually(
            lambda: (
                self.prefect("GET", f"/flow_runs/{flow_run}")["state_type"] in dispatch.ENDED_TYPES
            ),
            seconds=60,
            what=deployment,
        )

    def clear(self) -> None:
        """Delete every server that is left, so that the next test finds an empty estate."""
        left = list(self.client.items("/servers"))
        for server in left:
            if server["operation_id"]:
                self.wait(self.client.get(f"/operations/{server['operation_id']}"))
        left = [s for s in left if self.server(s["id"])["status"] != "deleted"]
        while left:
            begun, parents = [], []
            for server in left:
                try:
                    begun.append(self.act(server["id"], "delete"))
                except CliFailure:
                    parents.append(server)  # of clones, which go first
            assert begun, f"none of these can be deleted: {parents}"
            for operation in begun:
                self.done(operation)
            left = parents


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Let SIGTERM end the tests as Ctrl-C does: a lab that nobody takes down would stay."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _with_a_mortal_worker(
    chosen: Settings, config: StackConfig, *, own_database: bool
) -> list[Program]:
    """Return the stack's programs; its worker is one that tests can have die where they want."""
    table = programs(chosen, config, own_database=own_database)
    place = next(place for place, program in enumerate(table) if program.name == WORKER)
    script, paths = Path(__file__).with_name("mortal_worker.py"), (CHECKOUT, CHECKOUT / "tests")
    table[place] = replace(
        table[place],
        argv=[sys.executable, *map(str, (script, points_of(chosen.home), pause_of(chosen.home)))],
        environment=table[place].environment | {"PYTHONPATH": ":".join(map(str, paths))},
    )
    return table


@contextmanager
def open_estate() -> Iterator[Estate]:
    """Bring an estate up; whatever happens, nothing of it is left afterwards."""
    given = {
        "INNKEEPER_ACCELERATOR": "qemu",  # proving KVM has a test of its own
        "INNKEEPER_STALE_AFTER_SECONDS": str(STALE_SECONDS),
        "INNKEEPER_REACHABLE_SECONDS": str(REACHABLE_SECONDS),
        "INNKEEPER_RATE_LIMIT": "100000/minute",
        "INNKEEPER_MEMORY_HEADROOM": "2",  # so that memory can grow while a guest runs
    }
    with (
        _told_to_end(),
        mock.patch.object(lifecycle, "programs", _with_a_mortal_worker),
        disposable_stack("ik-e2e-", given, ["INNKEEPER_CACHE"]) as stack,
    ):
        lab = stack.add_lab_hosts(2, first_index=FIRST_INDEX)
        estate = Estate(stack.home, lab, stack.client, Supervisor(stack.home))
        project = next(estate.client.items("/projects"))
        estate.client.put(f"/projects/{project['id']}/quota", {"servers": 40, "vcpus": -1})
        estate.image("tiny")
        yield estate
    assert traces(stack.home) == {}


def unique(prefix: str) -> str:
    """Return a server name that no other test uses."""
    return f"{prefix}-{secrets.token_hex(3)}"
