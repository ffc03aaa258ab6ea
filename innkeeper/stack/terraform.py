"""Find or make Terraform and its libvirt provider, once a machine, in the cache.

The result is `<cache>/terraform/bin/terraform` and `<cache>/terraform/terraformrc`, which names a
filesystem mirror with the provider. Both are keyed by what they were made of, so a second call
costs a few file reads. `python -m innkeeper.stack.terraform` is what `make setup` calls.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from filelock import FileLock
from packaging.version import InvalidVersion, Version

from innkeeper.errors import PermanentError
from innkeeper.settings import settings
from innkeeper.stack import golang
from innkeeper.stack.progress import Progress, printed, silent, step

PROVIDER = "dmacvicar/libvirt"
PROVIDER_VERSION = "0.8.3"
REGISTRIES = ("registry.terraform.io", "registry.opentofu.org")
OLDEST = Version("1.5")
SETUP = Path(__file__).resolve().parents[2] / "setup"
FORMAT = 1  # raise it when the layout of the cache changes

RELEASE = "1.11.4"
RELEASE_SHA256 = {  # published beside the release
    "amd64": "1ce994251c00281d6845f0f268637ba50c0005657eb3cf096b92f753b42ef4dc",
    "arm64": "a43d1d0da9b9bab214a8305a39db0e40869572594ccf50c416a7756499143633",
}
DOWNLOAD_SECONDS = 600.0
COMMAND_SECONDS = 900.0


class TerraformUnavailable(PermanentError):
    """No way to get Terraform or its libvirt provider worked on this machine."""

    slug = "terraform-unavailable"
    title = "Terraform unavailable"


@dataclass(frozen=True)
class Prepared:
    """What set-up chose: the binary, its CLI configuration, and a sentence about them."""

    binary: Path
    cli_config: Path
    told: str


def child_environment() -> dict[str, str]:
    """Return an environment without Terraform settings of the caller, for set-up's own runs."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TF_")} | {
        "CHECKPOINT_DISABLE": "1"
    }


def version_of(binary: str | Path) -> Version | None:
    """Return the version of a Terraform or OpenTofu binary, or None when it does not run."""
    try:
        done = subprocess.run(
            [str(binary), "version", "-json"],
            capture_output=True,
            check=True,
            timeout=30,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
        )
        return Version(json.loads(done.stdout)["terraform_version"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, InvalidVersion):
        return None


def prepared(cache: Path) -> Prepared | None:
    """Return what an earlier `prepare` made, or None when it is missing or out of date."""
    folder = cache / "terraform"
    try:
        stamp = json.loads((folder / "stamp.json").read_text())
    except (OSError, ValueError):
        return None
    binary = folder / "bin" / "terraform"
    if stamp.get("key") != _key() or not binary.exists():
        return None
    if not (folder / "terraformrc").exists() or not _provider_file(folder).exists():
        return None
    return Prepared(binary, folder / "terraformrc", stamp["told"])


def prepare(cache: Path, progress: Progress = silent) -> Prepared:
    """Make Terraform and the provider usable from the cache.

    Order for the binary: terraform on PATH (>= 1.5), tofu on PATH, OpenTofu built from Go modules,
    the release of HashiCorp. For the provider: built from Go modules, else fetched from the
    registry. Raises TerraformUnavailable when nothing works.
    """
    if found := prepared(cache):
        return found
    folder = cache / "terraform"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if found := prepared(cache):
            return found
        binary = _choose_binary(folder, progress)
        origin = _fill_mirror(folder, binary, progress)
        _link(folder / "bin" / "terraform", binary)
        _write(folder / "terraformrc", _cli_config(folder / "mirror"))
        told = f"{binary.name} {version_of(binary)}, libvirt provider {PROVIDER_VERSION} {origin}"
        _write(folder / "stamp.json", json.dumps({"key": _key(), "told": told}))
        return Prepared(folder / "bin" / "terraform", folder / "terraformrc", told)


def _key() -> str:
    digest = hashlib.sha256(f"{FORMAT} {PROVIDER_VERSION} {RELEASE}".encode())
    for name in ("provider", "tofu"):
        for file in sorted((SETUP / name).glob("go.*")):
            digest.update(file.read_bytes())
    for name in ("terraform", "tofu"):
        if path := shutil.which(name):
            about = Path(path).resolve().stat()
            digest.update(f"{path} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def _choose_binary(folder: Path, progress: Progress) -> Path:
    for name in ("terraform", "tofu"):
        path = shutil.which(name)
        if path and (version := version_of(path)) and version >= OLDEST:
            return Path(path)
    attempts = []
    target = folder / "built" / "tofu"
    try:
        with step(progress, "terraform", "building OpenTofu from its Go modules (minutes)") as now:
            golang.build(SETUP / "tofu", "github.com/opentofu/opentofu/cmd/tofu", target)
            now.text = "OpenTofu built from its Go modules"
    except golang.GoUnavailable as failure:
        attempts.append(str(failure))
    else:
        return target
    target = folder / "built" / "terraform"
    try:
        with step(progress, "terraform", f"downloading Terraform {RELEASE}") as now:
            _download(target)
            now.text = f"Terraform {RELEASE} downloaded"
    except (httpx.HTTPError, OSError, TerraformUnavailable) as failure:
        attempts.append(f"the release could not be downloaded ({failure})")
        raise TerraformUnavailable(
            f"Terraform is not on PATH and could not be made: {'; '.join(attempts)}. "
            f"Install Terraform >= {OLDEST} or OpenTofu and run this again."
        ) from failure
    return target


def _download(target: Path) -> None:
    """Put the pinned release at `target`; raise when its SHA-256 differs."""
    arch = golang.architecture()
    url = f"https://releases.hashicorp.com/terraform/{RELEASE}/terraform_{RELEASE}_linux_{arch}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as scratch:
        archive = Path(scratch) / "terraform.zip"
        digest = hashlib.sha256()
        with (
            archive.open("wb") as out,
            httpx.stream("GET", url, follow_redirects=True, timeout=DOWNLOAD_SECONDS) as answer,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != RELEASE_SHA256.get(arch):
            raise TerraformUnavailable(f"{url} has an unexpected SHA-256")
        with zipfile.ZipFile(archive) as content:
            unpacked = Path(content.extract("terraform", scratch))
        unpacked.chmod(0o755)
        unpacked.replace(target)


def _provider_file(folder: Path, registry: str = REGISTRIES[0]) -> Path:
    """Return where the mirror holds the provider, unpacked."""
    return (
        folder
        / "mirror"
        / registry
        / PROVIDER
        / PROVIDER_VERSION
        / f"linux_{golang.architecture()}"
        / f"terraform-provider-libvirt_v{PROVIDER_VERSION}"
    )


def _fill_mirror(folder: Path, binary: Path, progress: Progress) -> str:
    """Put the provider into the mirror under both registries' names; return where it came from."""
    built = folder / "built" / "terraform-provider-libvirt"
    try:
        with step(progress, "provider", "building the libvirt provider (about a minute)") as now:
            golang.build(
                SETUP / "provider", "github.com/dmacvicar/terraform-provider-libvirt", built
            )
            now.text = "libvirt provider built from its Go modules"
        origin = "built from Go modules"
    except golang.GoUnavailable as failure:
        with step(progress, "provider", "fetching the libvirt provider") as now:
            _fetch_provider(binary, built, str(failure))
            now.text = "libvirt provider fetched from the registry"
        origin = "from the registry"
    for registry in REGISTRIES:
        file = _provider_file(folder, registry)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        shutil.copy2(built, fresh)
        fresh.replace(file)
    return origin


def _fetch_provider(binary: Path, target: Path, why_not_built: str) -> None:
    with TemporaryDirectory() as scratch:
        root, mirror = Path(scratch) / "root", Path(scratch) / "mirror"
        root.mkdir()
        required = {"libvirt": {"source": PROVIDER, "version": f"= {PROVIDER_VERSION}"}}
        (root / "main.tf.json").write_text(
            json.dumps({"terraform": {"required_providers": required}})
        )
        done = subprocess.run(
            [str(binary), f"-chdir={root}", "providers", "mirror", str(mirror)],
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
        )
        archives = list(mirror.rglob("*.zip"))
        if done.returncode or not archives:
            reason = " ".join((done.stderr or done.stdout).split())[:300]
            raise TerraformUnavailable(
                f"The libvirt provider could not be built ({why_not_built}) nor fetched from the "
                f"registry ({reason}); install Go >= {golang.OLDEST} or open the registry."
            )
        with zipfile.ZipFile(archives[0]) as content:
            name = next(n for n in content.namelist() if n.startswith("terraform-provider-libvirt"))
            unpacked = Path(content.extract(name, scratch))
        unpacked.chmod(0o755)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unpacked, target)


def _cli_config(mirror: Path) -> str:
    names = json.dumps([f"{registry}/{PROVIDER}" for registry in REGISTRIES])
    return (
        "disable_checkpoint = true\n"
        "provider_installation {\n"
        "  filesystem_mirror {\n"
        f"    path    = {json.dumps(str(mirror))}\n"
        f"    include = {names}\n"
        "  }\n"
        "  direct {\n"
        f"    exclude = {names}\n"
        "  }\n"
        "}\n"
    )


def _link(name: Path, target: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    fresh = name.with_suffix(f".{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(name)


def _write(path: Path, text: str) -> None:
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


def main() -> int:
    """Prepare and report in one line; return the exit code."""
    progress = printed()
    try:
        with step(progress, "terraform", "looking") as now:
            now.text = prepare(settings().cache, progress).told
    except PermanentError as failure:
        sys.stderr.write(f"  terraform  {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
