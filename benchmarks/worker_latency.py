"""From trigger to Running: the warm worker of a running stack against a stock process worker.

`python -m benchmarks.worker_latency` prints a Markdown table. The clock starts before the request
that starts the deployment and stops at the timestamp of the Running state, on one machine.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from prefect import flow

from innkeeper.settings import settings

CHECKOUT = Path(__file__).resolve().parents[1]
PROCESS_POOL = "benchmark-process"
WARM, STOCK = "benchmark-warm", "benchmark-stock"
ALONE_WARM, ALONE_STOCK, TOGETHER, ROUNDS = 20, 5, 4, 3
PATIENCE_SECONDS = 120.0


@flow(name="benchmark-nothing", persist_result=False)
async def nothing() -> None:
    """Do nothing: what is measured is the way to here."""


class Prefect:
    """The Prefect server of the stack."""

    def __init__(self) -> None:
        self._client = httpx.Client(
            base_url=settings().prefect_api_url, timeout=30, trust_env=False
        )

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return what was answered."""
        answer = self._client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deploy(self, name: str, pool: str, **job_variables: Any) -> str:
        """Deploy the flow to a pool and return the deployment's id."""
        body = {
            "name": name,
            "flow_id": self.ask("POST", "/flows/", {"name": nothing.name})["id"],
            "entrypoint": "benchmarks.worker_latency.nothing",
            "work_pool_name": pool,
            "path": str(CHECKOUT),
            "job_variables": job_variables,
        }
        return str(self.ask("POST", "/deployments/", body)["id"])

    def seconds_to_running(self, deployment: str) -> float:
        """Start a run, wait for its end and return how long it took to be Running."""
        began = time.time()
        body = {"idempotency_key": str(uuid4())}
        run = self.ask("POST", f"/deployments/{deployment}/create_flow_run", body)["id"]
        while time.time() - began < PATIENCE_SECONDS:
            time.sleep(0.3)  # seldom enough not to slow down what is measured
            states = self.ask("GET", f"/flow_run_states/?flow_run_id={run}")
            seen = {state["type"]: state["timestamp"] for state in states}
            if "COMPLETED" in seen:
                return datetime.fromisoformat(seen["RUNNING"]).timestamp() - began
        raise SystemExit("The flow run did not end: does the stack run (`make up`)?")


@contextmanager
def stock_worker(prefect: Prefect) -> Iterator[None]:
    """Run a stock process worker that asks every second."""
    environment = os.environ | {
        "PREFECT_API_URL": settings().prefect_api_url,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(CHECKOUT),
    }
    script = [str(Path(sys.executable).parent / "prefect"), "worker", "start"]
    worker = subprocess.Popen(
        [*script, "--type", "process", "--pool", PROCESS_POOL],
        env=environment,
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        path = f"/work_pools/{PROCESS_POOL}"
        deadline = time.monotonic() + PATIENCE_SECONDS
        while prefect.ask("GET", path)["status"] != "READY" and time.monotonic() < deadline:
            time.sleep(0.5)
        yield
    finally:
        worker.terminate()
        worker.wait(30)
        prefect.ask("DELETE", path)


def alone(prefect: Prefect, deployment: str, times: int) -> list[float]:
    """Measure runs one after another; the first, which imports the flow, does not count."""
    prefect.seconds_to_running(deployment)
    return [prefect.seconds_to_running(deployment) for _ in range(times)]


def together(prefect: Prefect, deployment: str) -> list[float]:
    """Measure runs that start at the same moment."""
    found: list[float] = []
    with ThreadPoolExecutor(TOGETHER) as threads:
        for _ in range(ROUNDS):
            found += threads.map(prefect.seconds_to_running, [deployment] * TOGETHER)
    return found


def row(name: str, seconds: list[float]) -> str:
    """Return a line of the table."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return (
        f"| {name} | {len(ordered)} | {statistics.median(ordered):.2f} s "
        f"| {p95:.2f} s | {ordered[-1]:.2f} s |"
    )


def measure() -> list[str]:
    """Return the table, line by line."""
    prefect = Prefect()
    lines = ["| trigger to Running | runs | p50 | p95 | max |", "|---|---|---|---|---|"]
    warm = prefect.deploy(WARM, "innkeeper")
    try:
        lines.append(row("warm worker, alone", alone(prefect, warm, ALONE_WARM)))
        lines.append(row(f"warm worker, {TOGETHER} at once", together(prefect, warm)))
    finally:
        prefect.ask("DELETE", f"/deployments/{warm}")
    prefect.ask("POST", "/work_pools/", {"name": PROCESS_POOL, "type": "process"})
    with stock_worker(prefect):
        stock = prefect.deploy(STOCK, PROCESS_POOL, working_dir=str(CHECKOUT))
        try:
            lines.append(row("stock process worker, alone", alone(prefect, stock, ALONE_STOCK)))
            name = f"stock process worker, {TOGETHER} at once"
            lines.append(row(name, together(prefect, stock)))
        finally:
            prefect.ask("DELETE", f"/deployments/{stock}")
    return lines


if __name__ == "__main__":
    print("\n".join(measure()))
