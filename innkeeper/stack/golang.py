"""Build a pinned Go program from public Go modules, where its binary cannot be had otherwise."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.version import Version

from innkeeper.errors import PermanentError

OLDEST = Version("1.23")
USUAL_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")
BUILD_SECONDS = 1800.0
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class GoUnavailable(PermanentError):
    """Go is missing, too old, or the build failed; another way has to be taken."""

    slug = "go-unavailable"
    title = "Go unavailable"


def architecture() -> str:
    """Return this machine's architecture as Go and Terraform call it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def version_of(go: str) -> Version | None:
    """Return the version of a Go toolchain, or None when it does not run."""
    try:
        told = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"go(\d+\.\d+(?:\.\d+)?)", told)
    return Version(match[1]) if match else None


def find() -> str:
    """Return a Go toolchain that is new enough; sudo's PATH often hides /usr/local/go.

    Raises GoUnavailable.
    """
    seen = []
    for candidate in filter(None, (shutil.which("go"), *USUAL_PLACES)):
        version = version_of(candidate)
        if version and version >= OLDEST:
            return candidate
        if version:
            seen.append(f"{candidate} is {version}")
    raise GoUnavailable(f"Go >= {OLDEST} is not installed{''.join(f', {s}' for s in seen)}")


def build(module: Path, package: str, target: Path) -> None:
    """Build `package`, pinned by the go.mod and go.sum in `module`, to `target`.

    Raises GoUnavailable with the end of the compiler's output.
    """
    go = find()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        source = Path(scratch) / "module"
        shutil.copytree(module, source)
        out = Path(scratch) / "out"
        try:
            done = subprocess.run(
                [
                    go,
                    "build",
                    "-mod=readonly",
                    "-trimpath",
                    "-buildvcs=false",
                    "-o",
                    str(out),
                    package,
                ],
                cwd=source,
                capture_output=True,
                text=True,
                check=False,
                timeout=BUILD_SECONDS,
                env={**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": ""},
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired as late:
            raise GoUnavailable(f"building {package} took over {BUILD_SECONDS:.0f} s") from late
        if done.returncode:
            raise GoUnavailable(f"building {package} failed: {done.stderr.strip()[-300:]}")
        out.replace(target)
