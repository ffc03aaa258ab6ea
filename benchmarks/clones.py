"""A linked clone of a running server, until its domain runs; and what of that is libvirt's."""

import statistics

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json

TIMES = 5
GOAL = 1.0
THEIRS = ("layer", "capture", "adopt-snapshot", "clone-volume", "seed", "domain", "lease", "start")
"""Steps that wait for libvirt and QEMU nearly all of their time; the others are ours."""


def run(estate: Estate) -> list[Table]:
    """Clone one booted guest again and again."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    source = _ended(estate, estate.client.post("/servers", {"name": "source", **_TINY}))
    path = f"/servers/{source['server_id']}"
    done = []
    for number in range(TIMES):
        asked = estate.client.post(f"{path}/clones", {"name": f"clone-{number}"})
        done.append(_ended(estate, asked))
        estate.ended(estate.client.delete(f"/servers/{asked['server_id']}"))
    table = Table("Clone", ("what", "goal", "median", "slowest"))
    until_run = [seconds_between(o["created_at"], _step(o, "start")["ended_at"]) for o in done]
    until_known = [seconds_between(o["created_at"], o["ended_at"]) for o in done]
    table.rows.append(_row("linked clone of a running server until its domain runs", until_run))
    theirs = [sum(_seconds(o, name) for name in THEIRS) for o in done]
    table.rows.append(_row("of that in steps that wait for libvirt and QEMU", theirs, goal=False))
    frozen = [sum(_seconds(o, name) for name in THEIRS[:3]) for o in done]
    table.rows.append(_row("of that until the source is free again", frozen, goal=False))
    table.rows.append(_row("until its identity is verified", until_known, goal=False))
    estate.ended(estate.client.delete(path))
    table.notes.append(
        f"{TIMES} times, of one tiny guest that runs, quiesced by its agent, from the request to "
        f"the API. Load then: {machine.load()}."
    )
    return [table]


_TINY = {"image": "tiny", "plan": "tiny"}


def _ended(estate: Estate, asked: Json) -> Json:
    operation = estate.ended(asked)
    if operation["phase"] != "succeeded":
        raise BenchmarkFailed(f"The {operation['verb']} failed: {operation['error']}")
    return operation


def _row(what: str, seconds: list[float], *, goal: bool = True) -> tuple[str, ...]:
    wanted = f"{GOAL:.1f} s" if goal else ""
    return what, wanted, f"{statistics.median(seconds):.2f} s", f"{max(seconds):.2f} s"


def _step(operation: Json, name: str) -> Json:
    return next(step for step in operation["steps"] if step["name"] == name)


def _seconds(operation: Json, name: str) -> float:
    step = _step(operation, name)
    return seconds_between(step["begun_at"], step["ended_at"])
