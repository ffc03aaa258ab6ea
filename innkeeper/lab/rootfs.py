"""A Debian root file system for the lab guests, made by mmdebstrap from apt's own mirror."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from innkeeper.lab.errors import ImageBuildFailed

SUITE = "bookworm"
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    KERNEL,
    "busybox-static",
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "dbus",
    "dropbear-bin",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "openssh-server",
    "python3",
    "python3-apt",
    "python3-yaml",
    "qemu-guest-agent",
    "sudo",
    "systemd-sysv",
    "udev",
)
# Kept out at installation: no lab guest reads or drives them, and every build would copy them.
EXCLUDED = (
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/lib/modules/*/kernel/drivers/gpu/*",
    "/lib/modules/*/kernel/drivers/infiniband/*",
    "/lib/modules/*/kernel/drivers/media/*",
    "/lib/modules/*/kernel/drivers/net/ethernet/*",
    "/lib/modules/*/kernel/drivers/usb/*",
    "/lib/modules/*/kernel/sound/*",
)
INCLUDED = ("/usr/share/doc/*/copyright",)
BOOTSTRAP_SECONDS = 1800.0
STEP_SECONDS = 300.0


def fingerprint() -> str:
    """Return what the root file system depends on, as a hash."""
    parts = (SUITE, *PACKAGES, *EXCLUDED, *INCLUDED)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def bootstrap(target: Path) -> None:
    """Write the root file system to the tar file `target` (about a minute; reads the mirror).

    Raises:
        ImageBuildFailed: apt knows no mirror for the suite, or a package could not be had.
    """
    include = f"--include={','.join(PACKAGES)}"
    filters = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDED]
    filters += [f"--dpkgopt=path-include={path}" for path in INCLUDED]
    call(
        ["mmdebstrap", "--variant=minbase", "--quiet", *filters, include, SUITE, str(target), "-"],
        data="\n".join(_sources()),
        timeout=BOOTSTRAP_SECONDS,
    )


def call(argv: Sequence[str], data: str = "", timeout: float = STEP_SECONDS) -> str:
    """Run one step of a build and return its output.

    Raises:
        ImageBuildFailed: the program is missing or failed; the text has its last line.
    """
    try:
        done = subprocess.run(
            list(argv), input=data, capture_output=True, text=True, check=False, timeout=timeout
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ImageBuildFailed(f"{argv[0]} is not installed or did not end: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ImageBuildFailed(f"{argv[0]} failed while building a lab image: {last}")
    return done.stdout


def _sources() -> list[str]:
    """Return apt's sources for the suite, as this machine is configured."""
    form = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)"
    lines = call(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).splitlines()
    found = []
    for line in dict.fromkeys(lines):
        origin, codename, uri = line.split("|")
        if origin == "Debian" and codename.partition("-")[0] == SUITE:
            found.append(f"deb {uri} {codename} main")
    if not found:
        raise ImageBuildFailed(
            f"apt on this machine knows no Debian {SUITE} mirror: add one to "
            "/etc/apt/sources.list.d, run apt-get update, then retry."
        )
    return found
