"""Terraform's root modules: what they are made of, and one initialised copy of each.

`terraform init` runs once for every content of a root; all runs then share that folder and differ
by workspace, which is clean under concurrency (a shared plugin cache at init is not).
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from innkeeper.substrate.failure import SubstrateBusy
from innkeeper.substrate.spec import Root

SOURCE = Path(__file__).resolve().parents[2] / "terraform"


def _files(root: Root) -> list[Path]:
    folders = (SOURCE / "roots" / root, SOURCE / "modules")
    return sorted(file for folder in folders for file in folder.rglob("*.tf"))


def content_hash(root: Root) -> str:
    """Return a hash of everything that a root is made of, its modules included."""
    digest = hashlib.sha256()
    for file in _files(root):
        digest.update(f"{file.relative_to(SOURCE)}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def fingerprint(root: Root, variables: Mapping[str, Any]) -> str:
    """Return a hash of a root and its variables: unchanged means nothing to apply."""
    values = json.dumps(variables, sort_keys=True, default=str)
    return hashlib.sha256(f"{content_hash(root)} {values}".encode()).hexdigest()


def initialised(
    root: Root,
    folder: Path,
    backend: Mapping[str, Any],
    *,
    tools: str,
    init: Callable[[Path], None],
    seconds: float,
) -> Path:
    """Return a folder in which Terraform may plan and apply; made by `init` on first use.

    Args:
        root: which root.
        folder: where such folders are kept.
        backend: content of backend.tf.json.
        tools: what Terraform and its providers are; another value makes another folder.
        init: runs `terraform init` in the folder that it is given.
        seconds: how long to wait for another process that does the same.

    Raises:
        SubstrateBusy: the other process took too long.
    """
    text = json.dumps(backend, sort_keys=True)
    key = hashlib.sha256(f"{content_hash(root)} {text} {tools}".encode()).hexdigest()[:16]
    target = folder / f"{root}-{key}"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with FileLock(folder / f".{target.name}.lock", timeout=seconds):
                if not target.exists():
                    _make(root, target, text, init)
        except Timeout:
            raise SubstrateBusy(
                f"Another process has been initialising the Terraform root '{root}' for over "
                f"{seconds:.0f} s: it is tried again."
            ) from None
    return target / "roots" / root


def _make(root: Root, target: Path, backend: str, init: Callable[[Path], None]) -> None:
    for remains in target.parent.glob(f".{target.name}.fresh-*"):  # of a killed process
        shutil.rmtree(remains, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.fresh-", dir=target.parent))
    try:
        for file in _files(root):
            copy = fresh / file.relative_to(SOURCE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        working = fresh / "roots" / root
        (working / "backend.tf.json").write_text(backend)
        init(working)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def tools_identity(binary: str, cli_config: Path) -> str:
    """Return what tells one set of Terraform and mirrored providers from another."""
    files = [Path(shutil.which(binary) or binary), cli_config]
    files += sorted(cli_config.parent.glob("mirror/**/terraform-provider-*"))
    seen = []
    for file in files:
        try:
            about = file.stat()
        except OSError:
            continue
        seen.append(f"{file} {about.st_size} {about.st_mtime_ns}")
    return "\n".join(seen)
