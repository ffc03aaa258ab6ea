"""Onto the shelf and back, held against `qemu-img convert -c` of the same disk alone."""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json
from innkeeper.configuration import login
from innkeeper.configuration.target import Target
from innkeeper.domain.naming import image_volume
from innkeeper.settings import settings

TIMES = 3
MIB = 40  # of each kind of data: the tiny guest has room for that
GOAL = 1.1
FILL = (
    f"dd if=/dev/urandom of=/root/noise bs=1M count={MIB} 2>/dev/null; "
    f"yes 'a line of a log, as logs are: GET /index.html 200 in 0.012 s' | head -c {MIB << 20} "
    "> /root/text; sync"
)


def run(estate: Estate) -> list[Table]:
    """Shelve and unshelve one stopped server some times."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    wanted = {"name": "shelf", "image": "tiny", "plan": "tiny", "disk_gib": 2}
    made = _ended(estate, estate.client.post("/servers", wanted))
    path = f"/servers/{made['server_id']}"
    server = estate.client.get(path)
    target = Target(
        server["edge_address"], server["ssh_port"], server["ssh_user"], server["host_key"]
    )
    login.run(target, ["sudo", "sh", "-c", FILL], timeout=600.0)
    shelved, unshelved, alone, deflate = [], [], [], []
    for _ in range(TIMES):
        _ended(estate, estate.client.post(f"{path}/actions/stop"))
        volume = Path(host.pool_path) / f"{server['id']}-root.qcow2"
        base = volume.with_name(image_volume(estate.tiny_image()["sha256"]))
        size = volume.stat().st_size
        alone.append(_convert(volume, base, settings().shelf_compression))
        deflate.append(_convert(volume, base, "zlib"))
        shelved.append(_ended(estate, estate.client.post(f"{path}/actions/shelve")))
        unshelved.append(_ended(estate, estate.client.post(f"{path}/actions/unshelve")))
    _ended(estate, estate.client.delete(path))
    table = Table("Shelf", ("what", "goal", "a GB", "of convert alone"))
    gb = size / 1e9
    own = statistics.median(alone)
    rows = {
        f"`qemu-img convert -c` ({settings().shelf_compression}) alone": alone,
        "`qemu-img convert -c` (zlib, its default) alone": deflate,
        "shelve: copy, compress, compare, check (step `shelve-disk`)": _of(shelved, "shelve-disk"),
        "shelve: prove that the disk is what was copied (`adopt-shelf`)": _of(
            shelved, "adopt-shelf"
        ),
        "**shelve**, whole operation": [_whole(o) for o in shelved],
        "unshelve: copy, sync, prove (step `unshelve-disk`)": _of(unshelved, "unshelve-disk"),
        "**unshelve**, until the guest is started": [_until(o, "start") for o in unshelved],
    }
    for what, seconds in rows.items():
        middle = statistics.median(seconds)
        goal = f"{GOAL}x" if "**" in what else ""
        table.rows.append((what, goal, f"{middle / gb:.1f} s", f"{middle / own:.2f}x"))
    table.notes.append(
        f"Median of {TIMES}; a disk of {size / 1e6:.0f} MB, half of it noise, half text; a GB is "
        f"one of that disk. The server was stopped before. Load then: {machine.load()}."
    )
    table.notes.append(
        "A disk that small shows mostly what a run costs whatever its size, some 3 s: the lines in "
        "bold are upper bounds."
    )
    return [table]


def _ended(estate: Estate, operation: Json) -> Json:
    ended = estate.ended(operation)
    if ended["phase"] != "succeeded":
        raise BenchmarkFailed(f"{ended['verb']} failed: {ended['error']}")
    return ended


def _convert(volume: Path, base: Path, compression: str) -> float:
    """Return the seconds that qemu-img takes for the same work, in the shelf's file system."""
    with tempfile.TemporaryDirectory(dir=settings().home) as folder:
        options = f"compat=1.1,compression_type={compression}"
        argv = ["qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", options]
        argv += ["-B", str(base), "-F", "qcow2", str(volume), f"{folder}/out.qcow2"]
        begun = time.monotonic()
        subprocess.run(argv, check=True)
        return time.monotonic() - begun


def _of(operations: list[Json], step: str) -> list[float]:
    return [
        seconds_between(entry["begun_at"], entry["ended_at"])
        for operation in operations
        for entry in operation["steps"]
        if entry["name"] == step
    ]


def _whole(operation: Json) -> float:
    return seconds_between(operation["created_at"], operation["ended_at"])


def _until(operation: Json, step: str) -> float:
    ends = {entry["name"]: entry["ended_at"] for entry in operation["steps"]}
    return seconds_between(operation["created_at"], ends[step])
