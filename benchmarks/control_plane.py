"""Many creates queued at once on simulated hosts: what accept, Prefect, worker and database bear.

libvirt's test driver plays the hosts in the worker's process, so hypervisors cost nothing and what
is left is the control plane. The rest is real: API, Prefect, PostgreSQL, the warm worker.
"""

import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
from sqlalchemy import func, select

from benchmarks import machine, worker_latency
from benchmarks.estate import Estate
from benchmarks.table import Table
from innkeeper.cli.client import Client, Json
from innkeeper.db.models import Operation, Server
from innkeeper.db.session import transaction
from innkeeper.settings import settings
from innkeeper.stack.supervisor import leftovers

HOSTS = 10
HOST_VCPUS = 64  # times overcommit 2.0, times 10 hosts: 1,280 servers of one vCPU
SIZES = tuple(int(n) for n in os.environ.get("BENCH_CREATES", "100,1000").split(","))
SMALLER = 300
EMPTY_RUNS = 100
PATIENCE_SECONDS = 1200.0
SENDERS = 8
GOAL = 10.0
OURSELVES, POSTGRES = "load generator", "PostgreSQL"


@dataclass
class Round:
    """What became of one volley of creates; times in seconds since the first request."""

    count: int
    accepted_seconds: float = 0.0
    seconds: float = 0.0
    phases: Counter[str] = field(default_factory=Counter)
    cpu: dict[str, float] = field(default_factory=dict)
    machine_busy: float = 0.0

    @property
    def completed(self) -> float:
        """Creates that succeeded in a second, over the whole volley."""
        return max(self.phases["succeeded"], 0.01) / self.seconds

    @property
    def lost(self) -> int:
        """Accepted creates that came to no end."""
        return self.count - self.phases["succeeded"] - self.phases["failed"]


def add_hosts(estate: Estate) -> set[str]:
    """Register simulated hosts, each with a libvirt of its own; return their names."""
    names = {f"simulated{number}" for number in range(HOSTS)}
    for name in sorted(names):
        place = estate.home / f"{name}.xml"
        place.write_text("<node/>")
        body = {"name": name, "uri": f"test://{place}", "channel": f"simulated:{name}"}
        size = {"vcpus": HOST_VCPUS, "memory_mib": 262144, "disk_gib": 4096}
        estate.client.post("/hosts", body | size)
    return names


def cpu_seconds(estate: Estate) -> dict[str, float]:
    """Return the processor seconds by program."""
    found: dict[str, float] = defaultdict(float)
    found[OURSELVES] = sum(psutil.Process().cpu_times()[:2])
    roots = leftovers(estate.home)
    # PostgreSQL's children write their titles over the environment by which `leftovers` knows.
    for process in {*roots, *(child for root in roots for child in root.children())}:
        try:
            times, name = process.cpu_times(), _name(process)
        except psutil.Error:
            continue
        found[name] += times.user + times.system
        if name == POSTGRES:  # the postmaster has waited for those that ended
            found[name] += times.children_user + times.children_system
    return dict(found)


def _name(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if process.name().startswith("postgres"):
        return POSTGRES
    for part, name in (
        ("prefect_server", "Prefect server"),
        ("innkeeper.worker", "worker"),
        ("innkeeper.api", "API"),
        ("innkeeper.listener", "listener"),
    ):
        if part in command:
            return name
    return "supervisord"


def volley(estate: Estate, count: int) -> Round:
    """Send `count` creates as fast as the API takes them, and see them to their end."""
    told = Round(count)
    before, busy = cpu_seconds(estate), _busy()
    begun = time.monotonic()
    _send(estate, count)
    told.accepted_seconds = time.monotonic() - begun
    while time.monotonic() - begun < PATIENCE_SECONDS:
        told.phases = _phases(count)
        told.seconds = time.monotonic() - begun
        if told.lost == 0:
            break
        time.sleep(1.0)
    after = cpu_seconds(estate)
    told.cpu = {name: after[name] - before.get(name, 0.0) for name in after}
    told.machine_busy = _busy() - busy
    return told


def empty_runs(estate: Estate, count: int) -> Round:
    """Send `count` runs of a flow that does nothing through the same worker: Prefect's own cost."""
    prefect = worker_latency.Prefect()
    deployment = prefect.deploy(f"{worker_latency.WARM}-volley", "innkeeper")
    path = f"/deployments/{deployment}"
    try:
        prefect.seconds_to_running(deployment)  # the first one imports the flow
        told = Round(count)
        before, busy, begun = cpu_seconds(estate), _busy(), time.monotonic()
        with ThreadPoolExecutor(SENDERS) as threads:
            body: Json = {"parameters": {}}
            list(
                threads.map(
                    lambda _: prefect.ask("POST", f"{path}/create_flow_run", body), range(count)
                )
            )
        told.accepted_seconds = time.monotonic() - begun
        wanted = {
            "deployments": {"id": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        while time.monotonic() - begun < PATIENCE_SECONDS:
            told.phases["succeeded"] = prefect.ask("POST", "/flow_runs/count", wanted) - 1
            told.seconds = time.monotonic() - begun
            if told.lost == 0:
                break
            time.sleep(0.5)
        after = cpu_seconds(estate)
        told.cpu = {name: after[name] - before.get(name, 0.0) for name in after}
        told.machine_busy = _busy() - busy
        return told
    finally:
        prefect.ask("DELETE", path)


def _send(estate: Estate, count: int) -> None:
    key = (estate.home / "admin.key").read_text().strip()

    def some(sender: int) -> None:
        with Client(settings().api_url, key) as client:
            for number in range(sender, count, SENDERS):
                body = {"name": f"volley{count}-{number}", "image": "tiny", "plan": "tiny"}
                client.post("/servers", body)

    with ThreadPoolExecutor(SENDERS) as threads:
        list(threads.map(some, range(SENDERS)))


def _phases(count: int) -> Counter[str]:
    with transaction() as session:
        rows = session.execute(
            select(Operation.phase, func.count(Operation.id))
            .join(Server, Server.id == Operation.server_id)
            .where(Server.name.startswith(f"volley{count}-"), Operation.verb == "create")
            .group_by(Operation.phase)
        )
        return Counter({str(phase): int(number) for phase, number in rows})


def _first_error() -> str | None:
    with transaction() as session:
        return session.scalar(select(Operation.error).where(Operation.error.is_not(None)).limit(1))


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait)


def run(estate: Estate) -> list[Table]:
    """Fire the volleys; the large one shrinks when it would not end in time."""
    names = add_hosts(estate)
    estate.enable_only(names)
    estate.tiny_image()
    volley(estate, 4)  # the first create on a host lays its substrate
    floor = empty_runs(estate, EMPTY_RUNS)
    rounds: list[Round] = []
    notes = [f"{HOSTS} simulated hosts, {os.cpu_count()} cores; goal {GOAL:.0f} creates/s, 0 lost."]
    for wanted in SIZES:
        size = wanted
        if rounds and wanted / rounds[-1].completed > PATIENCE_SECONDS:
            size = SMALLER
            notes.append(
                f"{wanted} at once would have taken {wanted / rounds[-1].completed:.0f} s at this "
                f"pace, so {size} were sent."
            )
        rounds.append(volley(estate, size))
    if error := _first_error():
        notes.append(f"The first failure: {error}")
    notes.append(f"Load at the end: {machine.load()}.")
    cost = sum(floor.cpu.values()) / floor.count
    notes.append(
        f"{floor.count} runs of a flow without any task, through the same worker: "
        f"{floor.completed:.1f}/s at {1000 * cost:.0f} ms of processor time each. That much a run "
        "costs Prefect before the first line of ours."
    )
    return [_speeds(rounds, notes), _costs(rounds)]


def _speeds(rounds: list[Round], notes: list[str]) -> Table:
    headers = ("creates at once", "accepted/s", "completed/s", "seconds", "failed", "lost")
    table = Table("Control plane", headers, notes=notes)
    for r in rounds:
        accepted = f"{r.count / r.accepted_seconds:.1f}"
        ends = (f"{r.seconds:.0f}", str(r.phases["failed"]), str(r.lost))
        table.rows.append((str(r.count), accepted, f"{r.completed:.1f}", *ends))
    return table


def _costs(rounds: list[Round]) -> Table:
    headers = ["processor time by program"]
    headers += [f"{r.count} at once, per create" for r in rounds]
    table = Table("Control plane: where the time goes", headers)
    for name in sorted(rounds[-1].cpu, key=lambda n: -rounds[-1].cpu[n]):
        table.rows.append(
            (name, *(f"{1000 * r.cpu.get(name, 0) / r.count:.0f} ms" for r in rounds))
        )
    sums = [sum(r.cpu.values()) for r in rounds]
    table.rows.append(("**all of these**", *(_ms(s, r) for s, r in zip(sums, rounds, strict=True))))
    table.rows.append(("the machine, all told", *(_ms(r.machine_busy, r) for r in rounds)))
    last, cores = rounds[-1], os.cpu_count() or 1
    named = sums[-1] / last.seconds
    worker = last.cpu.get("worker", 0.0) / last.seconds
    table.notes.append(
        f"In the last volley the stack used {named:.2f} of {cores} cores (worker {worker:.2f}), "
        f"others on the machine {last.machine_busy / last.seconds - named:.2f}. With all cores to "
        "itself, at that cost of a create, it could do at most "
        f"{cores * last.count / sums[-1]:.1f} creates/s by processor time."
    )
    return table


def _ms(seconds: float, told: Round) -> str:
    return f"{1000 * seconds / told.count:.0f} ms"
