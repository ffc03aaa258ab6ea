"""From request to domain running: Innkeeper's API against kcli, virt-install and bare libvirt.

All make the same server on the same lab host: a linked disk on the same image, a NoCloud seed,
define, start. Innkeeper also authenticates, checks quota, places, journals every step, keeps an
address and opens a forward. Every run ends when libvirt says that the domain is running.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

import libvirt
import yaml

from benchmarks import machine
from benchmarks.create_steps import seconds_between
from benchmarks.estate import BenchmarkFailed, Estate, until
from benchmarks.table import Table, spread
from innkeeper.cli.client import Json
from innkeeper.domain.cloudinit import Identity
from innkeeper.domain.naming import POOL
from innkeeper.hypervisor import guest, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings
from tasks.seed import image_of

TIMES = 5
KCLI = "99.0.202610251748"
DEBIAN = ("virtinst", "genisoimage")  # kcli needs the latter for its seed
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.01
MEMORY_MIB = 192


class Bench:
    """The lab host as the contestants see it."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.host = estate.lab_host()
        estate.enable_only({self.host.name})
        self.conn = connect(self.host.uri)
        views = {host["name"]: host for host in estate.client.items("/hosts")}
        self.virt_type: Literal["kvm", "qemu"] = views[self.host.name]["virt_type"]
        self.operations: list[Json] = []
        self.answered: list[float] = []
        self.home = estate.home / "rivals"

    def prepare(self) -> None:
        """Lay the substrate by a first create; install the rivals."""
        _cancel(self, self.innkeeper(str(uuid4())[:8])[1])
        self.operations.clear()
        self.answered.clear()
        network = next(n for n in self.conn.listNetworks() if n.startswith("innkeeper-"))
        self.network = network
        names = storage.volume_names(self.conn, POOL)
        self.image = next(name for name in names if name.startswith("image-"))
        self.kcli = _install()
        (self.home / ".kcli").mkdir(parents=True)
        client = {"type": "kvm", "url": self.host.uri, "pool": POOL}
        config = {"default": {"client": "lab"}, "lab": client}
        (self.home / ".kcli" / "config.yml").write_text(yaml.safe_dump(config))
        (self.home / ".ssh").mkdir()
        key = self.home / ".ssh" / "id_rsa"
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        user = self.home / "user-data"
        user.write_text("#cloud-config\nssh_authorized_keys: []\n")

    def seconds_to_running(self, begun: float, find: Callable[[], libvirt.virDomain]) -> float:
        """Return the seconds since `begun` when the domain is found running."""
        while time.monotonic() - begun < PATIENCE_SECONDS:
            try:
                if find().state()[0] == libvirt.VIR_DOMAIN_RUNNING:
                    return time.monotonic() - begun
            except libvirt.libvirtError:
                pass
            time.sleep(POLL_SECONDS)
        raise BenchmarkFailed("The domain did not run: see the logs of libvirtd.")

    def innkeeper(self, name: str) -> tuple[float, Json]:
        """POST to the API; return the seconds to running and the operation."""
        body = {"name": f"race-{name}", "image": "tiny", "plan": "tiny"}
        begun = time.monotonic()
        operation: Json = self.estate.client.post("/servers", body)
        self.answered.append(time.monotonic() - begun)
        identity = UUID(operation["server_id"])
        taken = self.seconds_to_running(begun, lambda: self.conn.lookupByUUID(identity.bytes))
        return taken, operation

    def command(self, name: str, argv: list[str]) -> float:
        """Run a rival's command line; return the seconds to running."""
        environment = {**os.environ, "HOME": str(self.home), "PYTHONPATH": ""}
        begun = time.monotonic()
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            return self.seconds_to_running(begun, lambda: self.conn.lookupByName(name))
        except BenchmarkFailed:
            print((self.home / "log").read_text()[-1500:], file=sys.stderr)
            raise
        finally:
            process.wait(PATIENCE_SECONDS)
            self.wipe(name)

    def wipe(self, name: str) -> None:
        """Take a rival's domain and its volumes away."""
        try:
            domain = self.conn.lookupByName(name)
        except libvirt.libvirtError:
            return
        if domain.isActive():
            domain.destroy()
        domain.undefine()
        pool = self.conn.storagePoolLookupByName(POOL)
        pool.refresh()
        for volume in pool.listAllVolumes():
            if volume.name().startswith(name):
                volume.delete()


def _call(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise BenchmarkFailed(f"{argv[0]} failed: {done.stderr.strip()[-500:]}")


def _install() -> Path:
    """Install virt-install from Debian and kcli from PyPI, once; return kcli's program."""
    if not (shutil.which("virt-install") and shutil.which("genisoimage")):
        _call("apt-get", "install", "--yes", "--no-install-recommends", *DEBIAN)
    venv = settings().cache / "rivals" / f"kcli-{KCLI}"
    if not (venv / "ready").exists():
        shutil.rmtree(venv, ignore_errors=True)
        _call(sys.executable, "-m", "venv", str(venv))
        _call(str(venv / "bin" / "pip"), "install", "--quiet", f"kcli=={KCLI}")
        (venv / "ready").touch()
    return venv / "bin" / "kcli"


def _cancel(bench: Bench, operation: Json) -> None:
    """Stop a create that runs already, and wait for its undo."""
    bench.estate.client.post(f"/operations/{operation['id']}/cancel")
    bench.estate.ended(operation)


def _innkeeper(bench: Bench, name: str) -> float:
    taken, operation = bench.innkeeper(name)
    path = f"/operations/{operation['id']}"
    # libvirt says so a moment before the step is journaled as done
    until(lambda: _step(bench.estate.client.get(path), "start").get("ended_at"), 20, 0.05)
    bench.operations.append(bench.estate.client.get(path))
    _cancel(bench, operation)
    return taken


def _virt_install(bench: Bench, name: str) -> float:
    image = storage.volume_path(bench.conn, POOL, bench.image)
    # Its seed goes to /var/lib/libvirt/boot of the machine that it runs on, so that is the host.
    layout = HostLayout(bench.estate.home / "lab", bench.host.name)
    argv = layout.enter(["virt-install", "--connect", "qemu:///system", "--name", f"vi-{name}"])
    argv += ["--virt-type", bench.virt_type, "--memory", str(MEMORY_MIB), "--vcpus", "1"]
    disk = f"pool={POOL},size=1,format=qcow2,backing_store={image},backing_format=qcow2"
    argv += ["--import", "--disk", disk, "--network", f"network={bench.network}"]
    argv += [
        "--osinfo",
        "detect=off,require=off",
        "--graphics",
        "none",
        "--noautoconsole",
        "--noreboot",
    ]
    argv += ["--cloud-init", f"user-data={bench.home / 'user-data'}"]
    return bench.command(f"vi-{name}", argv)


def _kcli(bench: Bench, name: str) -> float:
    argv = [str(bench.kcli), "create", "vm", "-i", bench.image]
    wishes = (f"memory={MEMORY_MIB}", "numcpus=1", "disks=[1]", f"nets=[{bench.network}]")
    for wish in (*wishes, f"pool={POOL}", f"virttype={bench.virt_type}", "cpumodel=qemu64"):
        argv += ["-P", wish]
    return bench.command(f"kc-{name}", [*argv, f"kc-{name}"])


def _direct(bench: Bench, name: str) -> float:
    """Do with bare calls of libvirt-python in a warm process what Innkeeper's steps do."""
    conn, begun = bench.conn, time.monotonic()
    identity = uuid4()
    disk, seed = f"di-{name}-root.qcow2", f"di-{name}-seed.iso"
    backing = storage.volume_path(conn, POOL, bench.image)
    storage.ensure_volume(conn, POOL, disk, 1 << 30, backing_path=backing)
    who = Identity(
        instance_id=str(identity),
        hostname=name,
        login_user="debian",
        ssh_keys=(),
        host_key_private="",
        host_key_public="",
    )
    storage.upload(conn, POOL, seed, image_of(who), "raw")
    spec = DomainSpec(
        server_id=identity,
        project_id=uuid4(),
        operation_id=uuid4(),
        name=f"di-{name}",
        title=name,
        vcpus=1,
        memory_mib=MEMORY_MIB,
        virt_type=bench.virt_type,
        disks=(DiskSpec(path=storage.volume_path(conn, POOL, disk), target="vda"),),
        nics=(NicSpec(network=bench.network, mac="52:54:00:be:ec:01"),),
        seed_path=storage.volume_path(conn, POOL, seed),
    )
    guest.define(conn, domain_xml(spec))
    guest.start(conn, identity)
    taken = bench.seconds_to_running(begun, lambda: conn.lookupByUUID(identity.bytes))
    bench.wipe(f"di-{name}")
    return taken


CONTESTANTS: dict[str, Callable[[Bench, str], float]] = {
    "Innkeeper, POST to running": _innkeeper,
    "kcli 99.0": _kcli,
    "virt-install 4.1": _virt_install,
    "libvirt-python, in a warm process": _direct,
}


def run(estate: Estate) -> list[Table]:
    """Let the contestants take turns."""
    bench = Bench(estate)
    bench.prepare()
    times: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for turn in range(TIMES):
        for name, contestant in CONTESTANTS.items():
            times[name].append(contestant(bench, str(turn)))
    headers = ("request to domain running", "median", "fastest", "slowest")
    table = Table("Against others", headers)
    for name, taken in times.items():
        table.rows.append((name, *spread(taken)))
    table.notes.append(
        f"{TIMES} runs each, by turns, on one lab host with domain type {bench.virt_type}; goal: "
        f"no slower than the faster of kcli {KCLI} and virt-install. Load then: {machine.load()}."
    )
    return [table, _inside(bench)]


def _step(operation: Json, name: str) -> Json:
    return next((step for step in operation["steps"] if step["name"] == name), {})


def _inside(bench: Bench) -> Table:
    """Return where Innkeeper's own time goes until the domain runs."""
    done = bench.operations
    table = Table("Inside Innkeeper's create until the domain runs", ("part", "median"))

    def add(part: str, seconds: list[float]) -> None:
        table.rows.append((part, f"{1000 * statistics.median(seconds):.0f} ms"))

    add("API answers (accepted, dispatched)", bench.answered)
    add(
        "accepted until a flow run holds it",
        [seconds_between(o["created_at"], o["started_at"]) for o in done],
    )
    names = [
        name for name in done[0]["step_names"] if name in {s["name"] for s in done[0]["steps"]}
    ]
    names = names[: names.index("start") + 1]
    for name in names:
        steps = [_step(o, name) for o in done]
        add(f"step {name}", [seconds_between(s["begun_at"], s["ended_at"]) for s in steps])
    spans = [seconds_between(o["started_at"], _step(o, "start")["ended_at"]) for o in done]
    at_work = [_at_work(o, names) for o in done]
    idle = [span - busy for span, busy in zip(spans, at_work, strict=True)]
    add("in no step (Prefect's task runs)", idle)
    add("**claimed until start is done**", spans)
    table.notes.append("Some steps run at the same time, so they add up to more than the whole.")
    return table


def _at_work(operation: Json, names: list[str]) -> float:
    """Return the seconds in which at least one of these steps was at work."""
    begin, seconds, until = operation["started_at"], 0.0, 0.0
    steps = [_step(operation, name) for name in names]
    spans = [[seconds_between(begin, s[edge]) for edge in ("begun_at", "ended_at")] for s in steps]
    for begun, ended in sorted(spans):
        seconds += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return seconds
