"""Onto the shelf and back, held against `qemu-img convert -c` of the same disks alone."""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import UUID

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json
from innkeeper.domain.naming import data_volume, image_volume
from innkeeper.settings import settings

TIMES = 3
SMALL_MIB = 40  # of each kind of data: the tiny guest has room for that
LARGE_MIB = 512
GOAL = 1.1
SHELVING = ("shelve-snapshots", "shelve-disk", "shelve-data-disks")
UNSHELVING = ("unshelve-snapshots", "unshelve-disk", "unshelve-data-disks")
LINE = b"a line of a log, as logs are: GET /index.html 200 in 0.012 s\n"


def run(estate: Estate) -> list[Table]:
    """Shelve and unshelve one stopped server some times, with little and with much on its disks."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    wanted = {"name": "shelf", "image": "tiny", "plan": "tiny", "disk_gib": 2}
    made = _ended(estate, estate.client.post("/servers", wanted))
    path = f"/servers/{made['server_id']}"
    disk = {"name": "shelf-data", "size_gib": 4}
    _ended(estate, estate.client.post(f"{path}/actions/attach-disk", disk))
    _ended(estate, estate.client.post(f"{path}/actions/stop"))
    server = estate.client.get(path)
    (data,) = estate.client.items(f"/disks?server_id={server['id']}")
    volume = Path(host.pool_path) / data_volume(UUID(data["id"]), data["format"])
    tables = []
    for title, mib in (("Shelf, a small server", SMALL_MIB), ("Shelf, a GB", LARGE_MIB)):
        tables.append(_measured(estate, title, server, volume, mib))
    _ended(estate, estate.client.delete(path))
    return tables


def _measured(estate: Estate, title: str, server: Json, data: Path, mib: int) -> Table:
    """Send the server to the shelf and back, with so much noise and as much text on its disk."""
    path = f"/servers/{server['id']}"
    root = data.with_name(f"{server['id']}-root.qcow2")
    base = root.with_name(image_volume(estate.tiny_image()["sha256"]))
    shelved: list[Json] = []
    unshelved: list[Json] = []
    alone: list[float] = []
    deflate: list[float] = []
    for _ in range(TIMES):
        _fill(data, mib)
        size = root.stat().st_size + data.stat().st_size
        for compression, times in ((settings().shelf_compression, alone), ("zlib", deflate)):
            times.append(_convert(root, base, compression) + _convert(data, None, compression))
        shelved.append(_ended(estate, estate.client.post(f"{path}/actions/shelve")))
        unshelved.append(_ended(estate, estate.client.post(f"{path}/actions/unshelve")))
        _ended(estate, estate.client.post(f"{path}/actions/stop"))
    table = Table(title, ("what", "goal", "took", "a GB", "of zlib", "of zstd"))
    rows = {
        f"`qemu-img convert -c` ({settings().shelf_compression}) alone": alone,
        "`qemu-img convert -c` (zlib, its default) alone": deflate,
        "shelve: copy, compress, compare, check (steps `shelve-…`)": _of(shelved, *SHELVING),
        "shelve: prove that the disks are what was copied (`adopt-shelf`)": _of(
            shelved, "adopt-shelf"
        ),
        "**shelve**, whole operation": [_whole(o) for o in shelved],
        "unshelve: copy, sync, prove (steps `unshelve-…`)": _of(unshelved, *UNSHELVING),
        "**unshelve**, until the guest is started": [_until(o, "start") for o in unshelved],
    }
    for what, seconds in rows.items():
        middle = statistics.median(seconds)
        goal = f"{GOAL}x" if "**" in what else ""
        of = [f"{middle / statistics.median(times):.2f}x" for times in (deflate, alone)]
        table.rows.append((what, goal, f"{middle:.2f} s", f"{middle / (size / 1e9):.1f} s", *of))
    table.notes.append(
        f"Median of {TIMES}; a root and a data disk, {size / 1e6:.0f} MB in all, half of it noise, "
        "half text. The server was stopped before, as it is after each unshelving. "
        f"Load then: {machine.load()}."
    )
    return table


def _fill(volume: Path, mib: int) -> None:
    """Write noise and text onto a disk that no guest has open."""
    with tempfile.TemporaryDirectory(dir=settings().home) as folder:
        for place, name in enumerate(("noise", "text")):
            source = Path(folder) / name
            with source.open("wb") as file:
                for _ in range(mib):
                    piece = LINE * ((1 << 20) // len(LINE) + 1)
                    file.write(os.urandom(1 << 20) if name == "noise" else piece[: 1 << 20])
            write = f"write -q -s {source} {place * LARGE_MIB}M {mib}M"
            subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, str(volume)], check=True)
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "flush", str(volume)], check=True)


def _ended(estate: Estate, operation: Json) -> Json:
    ended = estate.ended(operation)
    if ended["phase"] != "succeeded":
        raise BenchmarkFailed(f"{ended['verb']} failed: {ended['error']}")
    return ended


def _convert(volume: Path, base: Path | None, compression: str) -> float:
    """Return the seconds that qemu-img takes for the same work, in the shelf's file system."""
    with tempfile.TemporaryDirectory(dir=settings().home) as folder:
        options = f"compat=1.1,compression_type={compression}"
        argv = ["qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", options]
        argv += ["-B", str(base), "-F", "qcow2"] if base else []
        argv += [str(volume), f"{folder}/out.qcow2"]
        begun = time.monotonic()
        subprocess.run(argv, check=True)
        return time.monotonic() - begun


def _of(operations: list[Json], *steps: str) -> list[float]:
    """Return what those steps took together, of each operation."""
    return [
        sum(
            seconds_between(entry["begun_at"], entry["ended_at"])
            for entry in operation["steps"]
            if entry["name"] in steps
        )
        for operation in operations
    ]


def _whole(operation: Json) -> float:
    return seconds_between(operation["created_at"], operation["ended_at"])


def _until(operation: Json, step: str) -> float:
    ends = {entry["name"]: entry["ended_at"] for entry in operation["steps"]}
    return seconds_between(operation["created_at"], ends[step])
