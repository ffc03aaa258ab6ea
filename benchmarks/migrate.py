"""Moving one booted guest to and fro between two hosts: live, and with a power cycle."""

import re
import statistics

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json

TIMES = 5
LIVE, COLD = "live", "cold, until a login"
_STILL = re.compile(r"stood still for (\d+) ms")


def run(estate: Estate) -> list[Table]:
    """Move a guest with a live counter of seconds and downtimes, then shut down and started."""
    hosts = {estate.lab_host().name, estate.second_host().name}
    estate.enable_only(hosts)
    asked = estate.client.post("/servers", {"name": "mover", "image": "tiny", "plan": "tiny"})
    if estate.ended(asked)["phase"] != "succeeded":
        raise BenchmarkFailed("The server for the migration benchmark could not be created.")
    path = f"/servers/{asked['server_id']}"
    _moved(estate, path, {"mode": "live"})  # the new host's pool, network and image come with it
    ways = {
        LIVE: [_moved(estate, path, {"mode": "live"}) for _ in range(TIMES)],
        COLD: [
            _moved(estate, path, {"mode": "cold", "allow_power_cycle": True}) for _ in range(TIMES)
        ],
    }
    estate.ended(estate.client.delete(path))
    table = Table(
        "Migration", ("what", "median", "slowest", "libvirt and QEMU (live), copy (cold)", "down")
    )
    for what, ended in ways.items():
        whole = [seconds_between(one["created_at"], one["ended_at"]) for one in ended]
        step = "switch-over" if what is LIVE else "carry-disk"
        theirs = [_took(one, step) for one in ended]
        down = [_still(one) if what is LIVE else _off(one) for one in ended]
        cells = (statistics.median(whole), max(whole), *map(statistics.median, (theirs, down)))
        table.rows.append((what, *(f"{seconds:.2f} s" for seconds in cells)))
    table.notes.append(
        f"{TIMES} times each, one tiny guest of 192 MiB, from acceptance to the operation's end; "
        "the new host has image and network already. `down` is what libvirt says of the live guest "
        "(an emulated one stands still while its memory is sent: then it is a bound, with the "
        "disk), and from the start of its shutdown to the first login of the cold one. "
        "Load then: "
        f"{machine.load()}."
    )
    return [table]


def _moved(estate: Estate, path: str, body: Json) -> Json:
    ended = estate.ended(estate.client.post(f"{path}/actions/migrate", body))
    if ended["phase"] != "succeeded":
        raise BenchmarkFailed(f"The migration {body} has {ended['phase']}: {ended['error']}")
    return ended


def _step(operation: Json, name: str) -> Json:
    found: Json = next(step for step in operation["steps"] if step["name"] == name)
    return found


def _took(operation: Json, name: str) -> float:
    step = _step(operation, name)
    return seconds_between(step["begun_at"], step["ended_at"])


def _still(operation: Json) -> float:
    """Return for how many seconds a guest that moved live stood still, as libvirt measured it."""
    said = _STILL.search(_step(operation, "switch-over")["detail"] or "")
    if said is None:
        raise BenchmarkFailed("libvirt did not tell for how long the guest stood still.")
    return int(said[1]) / 1000


def _off(operation: Json) -> float:
    off, answers = _step(operation, "stand-by"), _step(operation, "answer-there")
    return seconds_between(off["begun_at"], answers["ended_at"])
