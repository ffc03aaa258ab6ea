"""Resizing one booted guest: live, and with a power cycle."""

import statistics

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate
from benchmarks.table import Table
from innkeeper.cli.client import Json

TIMES = 5
LIBVIRT = {"reshape", "balloon", "grow-disk", "plug-vcpus"}
IN_GUEST = {"expand", "turn-off", "turn-on"}


def run(estate: Estate) -> list[Table]:
    """Give a guest a disk and a vCPU while it runs; take the vCPU away with a power cycle."""
    host = estate.lab_host()
    estate.enable_only({host.name})
    asked = estate.client.post("/servers", {"name": "resize", "image": "tiny", "plan": "tiny"})
    if estate.ended(asked)["phase"] != "succeeded":
        raise BenchmarkFailed("The server for the resize benchmark could not be created.")
    path = f"/servers/{asked['server_id']}"
    ways: dict[str, list[tuple[float, float, float]]] = {}
    for number in range(TIMES):
        for what, body in (
            ("larger disk, live, with its file system", {"disk_gib": number + 2}),
            ("a vCPU more, live", {"vcpus": 2}),
            ("a vCPU less, power cycle until a login", {"vcpus": 1, "allow_power_cycle": True}),
        ):
            ways.setdefault(what, []).append(_resize(estate, path, body))
    estate.ended(estate.client.delete(path))
    table = Table("Resize", ("what", "median", "slowest", "libvirt and QEMU", "the guest"))
    for what, times in ways.items():
        whole, theirs, guests = zip(*times, strict=True)
        cells = (statistics.median(whole), max(whole), *map(statistics.median, (theirs, guests)))
        table.rows.append((what, *(f"{seconds:.2f} s" for seconds in cells)))
    table.notes.append(
        f"{TIMES} times each, on one tiny guest, from acceptance to the operation's end. The "
        f"guest's share is its file system, its shutdown and its boot. Load then: {machine.load()}."
    )
    return [table]


def _resize(estate: Estate, path: str, body: Json) -> tuple[float, float, float]:
    """Resize; return the seconds until it had ended, libvirt's of these, and the guest's."""
    ended = estate.ended(estate.client.post(f"{path}/actions/resize", body))
    if ended["phase"] != "succeeded":
        raise BenchmarkFailed(f"The resize to {body} has {ended['phase']}: {ended['error']}")
    took = {s["name"]: seconds_between(s["begun_at"], s["ended_at"]) for s in ended["steps"]}
    shares = [sum(took[name] for name in names) for names in (LIBVIRT, IN_GUEST)]
    whole = seconds_between(ended["created_at"], ended["ended_at"])
    return whole, shares[0], shares[1]
