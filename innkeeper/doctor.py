"""Small checks of a machine: what is wrong, and what to do about it.

A check returns one `Check` and raises nothing. `ok` is fine, `warn` works but worse or later,
`fail` stops Innkeeper from doing its work here.
"""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import httpx
import psycopg

from innkeeper.errors import InnkeeperError
from innkeeper.settings import Settings
from innkeeper.stack import lifecycle, postgres, supervisor, terraform
from innkeeper.stack.config import owns_database, read_stack
from innkeeper.stack.errors import PostgresMissing

GIB = 2**30
OLDEST_PYTHON = (3, 11)
DISK_FAIL_GIB, DISK_WARN_GIB = 3, 15  # one Debian image build, and room for a few servers
MEMORY_WARN_GIB = 2
ANSWER_SECONDS = 3.0
SECRET_FILES = ("stack.json", "secret.key", "supervisord.conf", "admin.key", "ssh/id_ed25519")

PROGRAMS = {  # program -> Debian package; what hosts and guests need on this machine
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "libvirtd": "libvirt-daemon-system",
    "virsh": "libvirt-clients",
    "dnsmasq": "dnsmasq-base",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "unshare": "util-linux",
    "xsltproc": "xsltproc",
}
IMAGE_PROGRAMS = {  # needed only to build guest images here
    "mmdebstrap": "mmdebstrap",
    "parted": "parted",
    "mkfs.ext4": "e2fsprogs",
    "extlinux": "extlinux",
}
ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Result(StrEnum):
    """How a check ended, from good to bad."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One finding: `what` is the fact, `fix` the next step (empty when there is none)."""

    name: str
    result: Result
    what: str
    fix: str = ""


def _ok(name: str, what: str) -> Check:
    return Check(name, Result.OK, what)


def _warn(name: str, what: str, fix: str) -> Check:
    return Check(name, Result.WARN, what, fix)


def _fail(name: str, what: str, fix: str) -> Check:
    return Check(name, Result.FAIL, what, fix)


def which(program: str) -> str | None:
    """Find a program on PATH or in the folders that only root has on its PATH."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *ADMIN_FOLDERS]))


def privileges() -> Check:
    """Namespaces, bridges and system libvirt need root, or sudo to become it."""
    if os.geteuid() == 0:
        return _ok("privileges", "running as root")
    if which("sudo"):
        return _warn(
            "privileges", "not root, sudo is there", "run `sudo innkeeper …` for lab and stack"
        )
    return _fail("privileges", "neither root nor sudo", "run as root, or install sudo")


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Innkeeper is written for Python 3.11 and newer."""
    told = ".".join(str(part) for part in version)
    if version[:2] < OLDEST_PYTHON:
        return _fail("python", f"Python {told}", "install Python 3.11 or newer, then `make setup`")
    return _ok("python", f"Python {told}")


def programs(wanted: dict[str, str] | None = None) -> Check:
    """Everything that hosts and guests need is installed."""
    packages = sorted({p for name, p in (wanted or PROGRAMS).items() if which(name) is None})
    if packages:
        return _fail(
            "programs", f"missing: {', '.join(packages)}", f"apt-get install {' '.join(packages)}"
        )
    return _ok("programs", f"all {len(wanted or PROGRAMS)} programs are installed")


def image_programs(wanted: dict[str, str] | None = None) -> Check:
    """Guest images can be built here; a machine that imports images does without."""
    packages = sorted({p for name, p in (wanted or IMAGE_PROGRAMS).items() if which(name) is None})
    if packages:
        return _warn(
            "images",
            f"guest images cannot be built here, missing: {', '.join(packages)}",
            f"apt-get install {' '.join(packages)}, or import images only",
        )
    return _ok("images", "guest images can be built here")


def kvm(accelerator: str, device: Path = Path("/dev/kvm")) -> Check:
    """KVM's device is there and may be used; whether guests run under it is proved at first use."""
    usable = device.exists() and os.access(device, os.R_OK | os.W_OK)
    if accelerator == "qemu":
        return _ok("kvm", "not used: INNKEEPER_ACCELERATOR=qemu")
    if usable:
        return _ok("kvm", f"{device} is there ({accelerator}: proved with a guest at first use)")
    state = "may not be opened by this user" if device.exists() else "is missing"
    fix = "enable virtualisation in the firmware, load kvm_intel or kvm_amd, or add yourself to kvm"
    if accelerator == "kvm":
        return _fail("kvm", f"{device} {state}", fix)
    return _warn("kvm", f"{device} {state}: guests run in slow software emulation", fix)


def cgroups(mounts: Path = Path("/proc/self/mounts")) -> Check:
    """Libvirt needs control groups, either version, to limit guests."""
    kinds = {line.split()[2] for line in mounts.read_text().splitlines() if "cgroup" in line}
    if "cgroup2" in kinds and "cgroup" not in kinds:
        return _ok("cgroups", "version 2")
    if "cgroup" in kinds:
        return _ok("cgroups", "version 1" if "cgroup2" not in kinds else "hybrid")
    return _fail("cgroups", "no control groups are mounted", "mount cgroup2 on /sys/fs/cgroup")


def nftables() -> Check:
    """The edge is loaded as JSON, which a build of nft without libjansson cannot read."""
    nft = which("nft")
    if nft is None:
        return _fail("nftables", "nft is missing", "apt-get install nftables")
    try:
        done = subprocess.run(
            [nft, "-j", "list", "tables"],
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return _fail("nftables", "nft does not answer", "look at the kernel's log")
    if done.returncode == 0 and '"nftables"' in done.stdout:
        return _ok("nftables", "speaks JSON")
    if os.geteuid() != 0:
        return _warn("nftables", "only root may ask", "run `sudo innkeeper doctor`")
    reason = " ".join(done.stderr.split())[:120]
    return _fail("nftables", f"JSON failed: {reason}", "use a kernel with nf_tables and nft >= 0.9")


def forwarding(proc: Path = Path("/proc/sys/net")) -> Check:
    """A host's edge forwards and translates; the lab switches that on in its own namespaces."""
    try:
        on = (proc / "ipv4/ip_forward").read_text().strip() == "1"
    except OSError:
        return _fail("forwarding", "IPv4 forwarding is not in this kernel", "use another kernel")
    if not (proc / "netfilter").is_dir():
        return _warn(
            "forwarding",
            "connection tracking is not loaded",
            "modprobe nf_conntrack on a real host",
        )
    if on:
        return _ok("forwarding", "IPv4 forwarding is on")
    return _warn(
        "forwarding",
        "IPv4 forwarding is off (the lab does not mind)",
        "sysctl -w net.ipv4.ip_forward=1 on a real host, and keep it in /etc/sysctl.d",
    )


def disk(name: str, folder: Path) -> Check:
    """Images, disks and the database have room. Sizes in GiB."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free // GIB
    what = f"{free} GiB free for {folder}"
    if free < DISK_FAIL_GIB:
        return _fail(name, what, f"free at least {DISK_WARN_GIB} GiB, or set INNKEEPER_HOME")
    if free < DISK_WARN_GIB:
        return _warn(name, what, f"{DISK_WARN_GIB} GiB are comfortable")
    return _ok(name, what)


def memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """There is memory for a guest or two beside the stack."""
    values = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    available = int(values["MemAvailable"].split()[0]) * 1024 / GIB
    what = f"{available:.1f} GiB available"
    if available < MEMORY_WARN_GIB:
        return _warn("memory", what, f"{MEMORY_WARN_GIB} GiB leave room for guests")
    return _ok("memory", what)


def secrets(home: Path) -> Check:
    """Files with secrets are readable by their owner only."""
    open_files = [
        str(home / name)
        for name in SECRET_FILES
        if (home / name).exists() and stat.S_IMODE((home / name).stat().st_mode) & 0o077
    ]
    if open_files:
        return _fail(
            "secrets",
            f"others may read {', '.join(open_files)}",
            f"chmod 600 {' '.join(open_files)}",
        )
    return _ok("secrets", f"files with secrets in {home} are private")


def ports(chosen: Settings) -> Check:
    """The stack's ports are free, or held by the stack itself."""
    ours = {status.name for status in lifecycle.status(chosen) if status.pid}
    taken = [
        f"{port} ({name}) by {lifecycle.listener_on(port)}"
        for name, port in lifecycle.ports(chosen).items()
        if name not in ours and not lifecycle.port_free(port, chosen.bind)
    ]
    if taken:
        names = ", ".join(lifecycle.ENVIRONMENT_OF_PORT.values())
        return _fail("ports", f"taken: {'; '.join(taken)}", f"end that program, or set {names}")
    return _ok("ports", "free" if not ours else "held by our stack")


def substrate_tools(cache: Path) -> Check:
    """Terraform and its libvirt provider were prepared by set-up."""
    if found := terraform.prepared(cache):
        return _ok("terraform", found.told)
    return _fail("terraform", "not prepared for this machine", "make terraform")


def postgres_binaries(chosen: Settings) -> Check:
    """The stack can run its own PostgreSQL, unless the database is elsewhere."""
    if not owns_database(chosen):
        return _ok("postgres", "not needed: DATABASE_URL names the database")
    config = read_stack(chosen.home)
    try:
        folder = postgres.binaries(Path(config.postgres_data) if config else None)
    except PostgresMissing as missing:
        return _fail("postgres", str(missing), "apt-get install postgresql")
    return _ok("postgres", f"server in {folder}")


def database(chosen: Settings) -> Check:
    """The database answers with the credentials that Innkeeper has."""
    url = chosen.database_url
    shown = url.split("://", 1)[0] + "://" + url.rsplit("@", 1)[-1].split("://", 1)[-1]
    try:
        if url.startswith("sqlite"):
            path = Path(url.removeprefix("sqlite:///"))
            if not path.exists():
                return _warn("database", f"{path} does not exist yet", "make up")
            with sqlite3.connect(path, timeout=ANSWER_SECONDS) as file:
                file.execute("SELECT 1")
        else:
            info = "postgresql://" + url.split("://", 1)[1]
            with psycopg.connect(info, connect_timeout=int(ANSWER_SECONDS)) as connection:
                connection.execute("SELECT 1")
    except (psycopg.Error, sqlite3.Error) as failure:
        # Only the kind of the error: libpq's sentence may repeat the connection string.
        return _warn("database", f"{shown} does not answer ({type(failure).__name__})", "make up")
    return _ok("database", f"{shown} answers")


def service(name: str, url: str) -> Check:
    """A program of the stack answers on its health address."""
    try:
        code = httpx.get(url, timeout=ANSWER_SECONDS, trust_env=False).status_code
    except httpx.HTTPError as failure:
        return _warn(name, f"{url} does not answer ({type(failure).__name__})", "make up")
    if code != httpx.codes.OK:
        return _warn(name, f"{url} answers {code}", f"see `innkeeper stack logs {name}`")
    return _ok(name, f"{url} answers")


def strays(chosen: Settings) -> Check:
    """No process of the stack is left without its supervisord."""
    if not chosen.home.exists() or supervisor.Supervisor(chosen.home).alive():
        return _ok("strays", "none")
    left = supervisor.leftovers(chosen.home)
    if left:
        return _warn("strays", f"{len(left)} processes of a killed stack", "innkeeper stack down")
    return _ok("strays", "none")


def host(uri: str, connect: Callable[[str], object]) -> Check:
    """A host's libvirt answers; `connect` raises an InnkeeperError when it does not."""
    try:
        connect(uri)
    except InnkeeperError as failure:
        return _fail("host", f"{uri}: {failure}", "start libvirtd there, or correct the URI")
    return _ok("host", f"{uri} answers")


def examine(
    chosen: Settings,
    hosts: Iterable[str] = (),
    connect: Callable[[str], object] | None = None,
) -> list[Check]:
    """Run every check; `hosts` are libvirt URIs that `connect` shall reach."""
    base = f"http://{chosen.bind}:{chosen.api_port}"
    checks: list[Callable[[], Check]] = [
        privileges,
        python,
        programs,
        image_programs,
        lambda: kvm(chosen.accelerator),
        cgroups,
        nftables,
        forwarding,
        memory,
        lambda: disk("disk", chosen.home),
        lambda: disk("cache", chosen.cache),
        lambda: secrets(chosen.home),
        lambda: substrate_tools(chosen.cache),
        lambda: postgres_binaries(chosen),
        lambda: ports(chosen),
        lambda: strays(chosen),
        lambda: database(chosen),
        lambda: service("prefect", f"{chosen.prefect_api_url}/health"),
        lambda: service("api", f"{base}/api/v1/health"),
    ]
    found = [check() for check in checks]
    if connect:
        found += [host(uri, connect) for uri in hosts]
    return found
