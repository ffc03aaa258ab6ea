"""A create of the tiny image, step by step, from the operation's own journal."""

import statistics
from datetime import datetime

from benchmarks import machine
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json

TIMES = 3


def seconds_between(begin: str, end: str) -> float:
    """Return the seconds between two timestamps of the API."""
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def create(estate: Estate, name: str) -> Json:
    """Create a server to its end, delete it, and return the operation.

    Raises:
        BenchmarkFailed: the create failed.
    """
    asked = estate.client.post("/servers", {"name": name, "image": "tiny", "plan": "tiny"})
    operation = estate.ended(asked)
    if operation["phase"] != "succeeded":
        raise BenchmarkFailed(f"The create failed: {operation['error']}")
    estate.ended(estate.client.delete(f"/servers/{operation['server_id']}"))
    return operation


def run(estate: Estate) -> list[Table]:
    """Create some servers one after another; the first, which lays the substrate, stands alone."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    first = create(estate, "steps-0")
    others = [create(estate, f"steps-{n}") for n in range(1, TIMES + 1)]
    table = Table("Create by step", ("step", f"median of {TIMES}", "first on the host"))
    waited = [seconds_between(o["created_at"], o["started_at"]) for o in others]
    was = seconds_between(first["created_at"], first["started_at"])
    table.rows.append(
        ("accepted until claimed", f"{statistics.median(waited):.2f} s", f"{was:.2f} s")
    )
    for name in first["step_names"]:
        middle = statistics.median(_step(o, name) for o in others)
        table.rows.append((name, f"{middle:.2f} s", f"{_step(first, name):.2f} s"))
    whole = statistics.median(seconds_between(o["created_at"], o["ended_at"]) for o in others)
    alone = seconds_between(first["created_at"], first["ended_at"])
    table.rows.append(("**accepted until active**", f"{whole:.1f} s", f"{alone:.1f} s"))
    table.notes.append(
        "The first create on a host applies the substrate with Terraform, once for all. The "
        f"rest of the whole is between the steps. Load then: {machine.load()}."
    )
    return [table]


def _step(operation: Json, name: str) -> float:
    for step in operation["steps"]:
        if step["name"] == name:
            return seconds_between(step["begun_at"], step["ended_at"])
    return 0.0
