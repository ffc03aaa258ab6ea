"""Power as people feel it: a guest that died is told, a suspended one answers again."""

import statistics
import time

import psutil

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate, until
from benchmarks.table import Table
from innkeeper.cli.client import Json
from innkeeper.configuration import login
from innkeeper.configuration.target import Target
from innkeeper.errors import InnkeeperError

TIMES = 5
PATIENCE_SECONDS = 60.0
TOLD_GOAL, RESUMED_GOAL = 2.0, 1.5


def run(estate: Estate) -> list[Table]:
    """Kill, suspend and resume one booted guest."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    asked = estate.client.post("/servers", {"name": "power", "image": "tiny", "plan": "tiny"})
    if estate.ended(asked)["phase"] != "succeeded":
        raise BenchmarkFailed("The server for the power benchmarks could not be created.")
    path = f"/servers/{asked['server_id']}"
    table = Table("Power", ("what", "goal", "median", "slowest", "of that libvirt and QEMU"))
    told = [_death(estate, path) for _ in range(TIMES)]
    table.rows.append(_row("QEMU killed until the API says stopped", TOLD_GOAL, told, []))
    for mode in ("save", "pause"):
        awake = [_sleep(estate, path, mode) for _ in range(TIMES)]
        what = f"resume ({mode}) until a login works"
        table.rows.append(_row(what, RESUMED_GOAL, *map(list, zip(*awake, strict=True))))
    estate.ended(estate.client.delete(path))
    table.notes.append(
        f"{TIMES} times each, on one tiny guest, from the request to the API; a goal is in "
        f"seconds. Load then: {machine.load()}."
    )
    return [table]


def _row(what: str, goal: float, seconds: list[float], theirs: list[float]) -> tuple[str, ...]:
    share = f"{statistics.median(theirs):.2f} s" if theirs else ""
    middle, slowest = statistics.median(seconds), max(seconds)
    return what, f"{goal:.1f} s", f"{middle:.2f} s", f"{slowest:.2f} s", share


def _death(estate: Estate, path: str) -> float:
    """Kill the guest's QEMU; return how long its server still counted as active."""
    server_id = path.rpartition("/")[2]
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"].startswith("qemu") and server_id in process.info["cmdline"]:
            process.kill()
            break
    else:
        raise BenchmarkFailed("The guest has no QEMU that could be killed.")
    begun = time.monotonic()
    until(lambda: estate.client.get(path)["status"] == "stopped", PATIENCE_SECONDS, pause=0.02)
    seconds = time.monotonic() - begun
    estate.ended(estate.client.post(f"{path}/actions/start"))
    return seconds


def _sleep(estate: Estate, path: str, mode: str) -> tuple[float, float]:
    """Suspend and resume; return the seconds to a login, and those of the step `resume` alone."""
    estate.ended(estate.client.post(f"{path}/actions/suspend", {"mode": mode}))
    server: Json = estate.client.get(path)
    if server["status"] != "suspended":
        raise BenchmarkFailed(f"The server is {server['status']}, not suspended.")
    target = Target(
        server["edge_address"], server["ssh_port"], server["ssh_user"], server["host_key"]
    )
    begun = time.monotonic()
    operation = estate.client.post(f"{path}/actions/resume")
    until(lambda: _answers(target), PATIENCE_SECONDS, pause=0.02)
    seconds = time.monotonic() - begun
    step = estate.ended(operation)["steps"][0]
    return seconds, seconds_between(step["begun_at"], step["ended_at"])


def _answers(target: Target) -> bool:
    try:
        login.run(target, ["true"], timeout=10.0)
    except InnkeeperError:
        return False
    return True
