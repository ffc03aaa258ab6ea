import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest

from innkeeper.dispatch import ENDED_TYPES, Starter
from innkeeper.worker import identity

FLOWS = textwrap.dedent("""
    import asyncio, logging, sys, time
    from prefect import flow, task
    from prefect.context import get_run_context
    from pydantic import BaseModel

    library = logging.getLogger("innkeeper.stub")

    class Request(BaseModel):
        name: str
        size: int = 1

    @task(persist_result=False)
    async def step(word: str) -> None:
        await asyncio.to_thread(library.warning, "from a thread: %s", word)

    @flow(persist_result=False)
    async def talk(word: str = "hello", seconds: float = 0, request: Request | None = None):
        await step(word)
        await asyncio.sleep(seconds)
        library.warning("request: %r", request)
        print("flow run", get_run_context().flow_run.id)

    @flow(persist_result=False)
    async def block(seconds: float = 60.0) -> None:
        await asyncio.to_thread(time.sleep, seconds)

    @flow(persist_result=False)
    async def steps() -> None:
        for _ in range(120):
            await asyncio.sleep(0.5)
            await step("on")

    @flow(persist_result=False)
    async def leave() -> None:
        sys.exit(3)

    @flow(persist_result=False)
    def plain() -> int:
        return 1
""")
DEPLOYMENTS = ("talk", "block", "steps", "leave", "plain", "gone")
PATIENCE = 60.0


class Server:
    """The Prefect server as these tests ask it."""

    def __init__(self, url: str) -> None:
        self.starter = Starter(url)
        self.starter._client.timeout = httpx.Timeout(PATIENCE)  # SQLite makes the server slow
        self.ask = self.starter._send

    def start(self, name: str, **parameters: Any) -> UUID:
        return self.starter.start(f"{name}/{name}", parameters=parameters, key=str(uuid4()))

    def run(self, run: UUID) -> dict[str, Any]:
        return dict(self.ask("GET", f"/flow_runs/{run}").json())

    def state(self, run: UUID) -> str:
        return str(self.run(run)["state_name"])

    def wait(self, run: UUID, *wanted: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while True:
            seen = self.run(run)
            if seen["state_name"] in wanted or (not wanted and seen["state_type"] in ENDED_TYPES):
                return seen
            assert time.monotonic() < deadline, f"{seen['name']} is still {seen['state_name']}"
            time.sleep(0.1)

    def when(self, run: UUID, state: str) -> datetime:
        history = self.ask("GET", f"/flow_run_states/?flow_run_id={run}").json()
        told = [entry["timestamp"] for entry in history if entry["name"] == state]
        return datetime.fromisoformat(told[-1])

    def logs(self, run: UUID, until: str) -> list[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [str(run)]}}, "limit": 200}
        deadline = time.monotonic() + PATIENCE
        while True:
            lines = [entry["message"] for entry in self.ask("POST", "/logs/filter", wanted).json()]
            if any(until in line for line in lines):
                return lines
            assert time.monotonic() < deadline, lines
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(prefect_server: str) -> Iterator[Server]:
    server = Server(prefect_server)
    for pool in server.ask("POST", "/work_pools/filter", {}).json():  # of other modules' tests
        if pool["name"].startswith("innkeeper"):
            server.ask("DELETE", f"/work_pools/{pool['name']}")
    server.ask("POST", "/work_pools/", {"name": "innkeeper", "type": "innkeeper-warm"})
    for name in DEPLOYMENTS:
        flow = server.ask("POST", "/flows/", {"name": name}).json()["id"]
        body = {
            "name": name,
            "flow_id": flow,
            "entrypoint": f"warm_stub_flows.{name}",
            "work_pool_name": "innkeeper",
            "enforce_parameter_schema": False,
        }
        server.ask("POST", "/deployments/", body)
    yield server
    server.starter.close()


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run_worker(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("worker")
    (folder / "warm_stub_flows.py").write_text(FLOWS)

    @contextmanager
    def running(limit: int = 4) -> Iterator[subprocess.Popen[bytes]]:
        checkout = Path(__file__).parents[2]
        environment = os.environ | {
            "PYTHONPATH": f"{checkout}{os.pathsep}{folder}",
            "INNKEEPER_HOME": str(folder),
            "INNKEEPER_WORKER_LIMIT": str(limit),
            "DATABASE_URL": f"sqlite:///{folder / 'innkeeper.db'}",
            "PREFECT_LOGGING_LEVEL": "INFO",
        }
        log = folder / f"worker-{uuid4().hex[:6]}.log"
        with log.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "innkeeper.worker"],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while "is warm" not in log.read_text():
                assert worker.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield worker
        finally:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
            sys.stdout.write(log.read_text())

    return running


@pytest.fixture(scope="class")
def worker(run_worker: Run) -> Iterator[subprocess.Popen[bytes]]:
    with run_worker() as running:
        yield running


@pytest.mark.usefixtures("worker")
class TestCarrying:
    """One worker for all of them."""

    def test_a_run_is_carried_and_its_logs_are_on_its_page(self, server: Server) -> None:
        run = server.start("talk", word="ahoy", request={"name": "web-1", "size": 3})
        assert server.wait(run)["state_name"] == "Completed"
        lines = server.logs(run, "Finished in state")
        assert "from a thread: ahoy" in lines
        assert "request: Request(name='web-1', size=3)" in lines

    def test_runs_go_side_by_side_each_in_its_own_context(self, server: Server) -> None:
        runs = {server.start("talk", word=f"word-{n}", seconds=3.0): f"word-{n}" for n in range(3)}
        for run in runs:
            assert server.wait(run)["state_name"] == "Completed"
        begun = max(server.when(run, "Running") for run in runs)
        ended = min(server.when(run, "Completed") for run in runs)
        assert begun < ended
        for run, word in runs.items():
            spoken = [
                line for line in server.logs(run, "Finished") if line.startswith("from a thread")
            ]
            assert spoken == [f"from a thread: {word}"]

    def test_a_run_by_the_clock_begins_when_it_is_due(self, server: Server) -> None:
        due = datetime.now(UTC) + timedelta(seconds=6)
        details = {"scheduled_time": due.isoformat()}
        talk = server.ask("GET", "/deployments/name/talk/talk").json()["id"]
        state = {"state": {"type": "SCHEDULED", "state_details": details}}
        run = server.ask("POST", f"/deployments/{talk}/create_flow_run", state).json()["id"]
        server.wait(run)
        assert timedelta() <= server.when(run, "Running") - due < timedelta(seconds=5)

    def test_a_suspended_run_stops_at_its_next_step(self, server: Server) -> None:
        run = server.start("steps")
        server.wait(run, "Running")
        state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
        server.ask("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})
        server.logs(run, "Finished in state Suspended")
        assert server.state(run) == "Suspended"

    def test_a_plain_function_runs_too(self, server: Server) -> None:
        assert server.wait(server.start("plain"))["state_name"] == "Completed"

    @pytest.mark.parametrize(
        ("name", "state", "why"),
        [("gone", "Crashed", "warm_stub_flows"), ("leave", "Crashed", "")],
    )
    def test_a_bad_flow_does_no_harm_to_the_worker(
        self, server: Server, worker: subprocess.Popen[bytes], name: str, state: str, why: str
    ) -> None:
        seen = server.wait(server.start(name))
        assert seen["state_name"] == state
        assert why in seen["state"]["message"]
        assert server.wait(server.start("talk"))["state_name"] == "Completed"
        assert worker.poll() is None

    def test_a_bad_form_fails_with_the_reason(self, server: Server) -> None:
        seen = server.wait(server.start("talk", request={"size": "many"}))
        assert seen["state_name"] == "Failed"
        assert "name" in seen["state"]["message"]

    def test_a_cancelled_run_ends(self, server: Server) -> None:
        run = server.start("talk", seconds=600.0)
        server.wait(run, "Running")
        server.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        assert server.wait(run, "Cancelled")["state"]["message"]


def test_no_more_runs_than_places(server: Server, run_worker: Run) -> None:
    with run_worker(limit=1):
        first, second = server.start("talk", seconds=2.0), server.start("talk")
        server.wait(first)
        server.wait(second)
    moments = [
        (server.when(run, "Running"), server.when(run, "Completed")) for run in (first, second)
    ]
    (_, one_ended), (other_began, _) = sorted(moments)
    assert one_ended <= other_began


def test_what_a_killed_worker_left_is_buried_by_the_next(server: Server, run_worker: Run) -> None:
    with run_worker() as worker:
        run = server.start("block")
        server.wait(run, "Running")
        worker.kill()
        worker.wait()
    assert server.state(run) == "Running"
    with run_worker():
        seen = server.wait(run)
    assert seen["state_name"] == "Crashed"
    assert "worker died" in seen["state"]["message"]


def test_sigterm_lets_short_runs_end_and_leaves_long_ones(server: Server, run_worker: Run) -> None:
    with run_worker() as worker:
        short, long = server.start("talk", seconds=2.0), server.start("block")
        server.wait(short, "Running", "Completed")
        server.wait(long, "Running")
        worker.send_signal(signal.SIGTERM)
        late = server.start("talk")
        assert worker.wait(30) == 0
    assert server.state(short) == "Completed"
    assert server.state(long) == "Crashed"
    assert server.state(late) == "Scheduled"


def test_an_identity_tells_the_dead_from_the_living() -> None:
    assert not identity.is_dead_here(identity.own())
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        known = identity._identity(psutil.Process(other.pid))
        assert not identity.is_dead_here(known)
        other.kill()
        other.wait()
        assert identity.is_dead_here(known)
    head, _, _began = identity.own().rpartition("/")
    assert identity.is_dead_here(f"{head}/1.00")  # our number, another process
    assert not identity.is_dead_here("innkeeper@elsewhere/1/1.00")
    assert not identity.is_dead_here("")
