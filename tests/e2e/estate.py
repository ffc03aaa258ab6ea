"""The whole stack and two lab hosts in a home of their own, and ways to use them."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil

from benchmarks.disposable import disposable_stack
from e2e.traces import traces
from innkeeper import dispatch
from innkeeper.cli.client import Client, Json
from innkeeper.configuration import login
from innkeeper.configuration.target import Target
from innkeeper.lab import images as guests
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings
from innkeeper.stack.config import mark
from innkeeper.stack.programs import CHECKOUT, WORKER, prefect_client_environment
from innkeeper.stack.supervisor import MARK, Supervisor

FIRST_INDEX = 100
STALE_SECONDS = 5.0
REACHABLE_SECONDS = 480.0  # many guests at once, emulated, on a machine that has other work
OPERATION_SECONDS = 540.0
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


@dataclass
class Estate:
    """A running stack with two hosts, `lab1` and `lab2`, and the image `tiny`."""

    home: Path
    lab: Lab
    client: Client
    supervisor: Supervisor
    _doomed: list["subprocess.Popen[bytes]"] = field(default_factory=list)

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
            if time.monotonic() - begun > seconds:
                steps = [(s["name"], s["state"], s["detail"]) for s in operation["steps"]]
                raise OperationFailed(
                    f"{operation['verb']} of {operation['server']} is {operation['phase']} after "
                    f"{seconds:.0f} s: {steps}\n{self.supervisor.log_tail(WORKER, 4000)}"
                )
            time.sleep(0.2)
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

    def stop_worker(self) -> None:
        """Stop the warm worker: what is queued waits."""
        self.supervisor.stop(WORKER)

    def start_worker(self) -> None:
        """Start the warm worker, which reconciles as soon as it is warm."""
        self.supervisor.start(WORKER)

    def doomed_worker(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a worker that dies by SIGKILL at a point; stop the stack's own one first."""
        log = (self.home / "logs" / "doomed.log").open("ab")
        with log:
            worker = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("doomed_worker.py")), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env=self.environment() | {MARK: mark(self.home)},
            )
        self._doomed.append(worker)
        return worker

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
        return answer.json()

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
        for server in list(self.client.items("/servers")):
            if server["operation_id"]:
                self.wait(self.client.get(f"/operations/{server['operation_id']}"))
            if self.server(server["id"])["status"] != "deleted":
                self.done(self.act(server["id"], "delete"))

    def end_doomed(self) -> None:
        """End the doomed workers that live on."""
        for worker in self._doomed:
            with suppress(ProcessLookupError):
                worker.kill()
            worker.wait()
        self._doomed.clear()


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Let SIGTERM end the tests as Ctrl-C does: a lab that nobody takes down would stay."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    with _told_to_end(), disposable_stack("ik-e2e-", given, ["INNKEEPER_CACHE"]) as stack:
        lab = stack.add_lab_hosts(2, first_index=FIRST_INDEX)
        estate = Estate(stack.home, lab, stack.client, Supervisor(stack.home))
        stack.undo.callback(estate.end_doomed)
        project = next(estate.client.items("/projects"))
        estate.client.put(f"/projects/{project['id']}/quota", {"servers": 40, "vcpus": -1})
        estate.image("tiny")
        yield estate
    assert traces(stack.home) == {}


def unique(prefix: str) -> str:
    """Return a server name that no other test uses."""
    return f"{prefix}-{secrets.token_hex(3)}"
