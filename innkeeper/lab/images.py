"""Golden images for the lab, built from Debian packages and kept in the cache.

`tiny` answers over SSH in about 7 s under emulation and is for most tests and the demo; `tiny-uefi`
is the same for UEFI firmware; `debian` is a trimmed real Debian with real cloud-init.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from innkeeper.errors import NotFound
from innkeeper.lab import debian, rootfs, tiny
from innkeeper.settings import settings

BUILDERS: dict[str, Callable[[Path, Path, Path], None]] = {
    "tiny": tiny.build,
    "tiny-uefi": tiny.build_uefi,
    "debian": debian.build,
}
SHARED = ("disk.py", "rootfs.py", "guest/tiny/initramfs-init.sh")

Progress = Callable[[str, float], None]


def _silent(message: str, fraction: float) -> None:
    del message, fraction


def image_path(name: str) -> Path:
    """Return where the image is, or will be: the file name has a hash of its recipe.

    Raises:
        NotFound: there is no such lab image.
    """
    if name not in BUILDERS:
        raise NotFound(f"There is no lab image '{name}': choose one of {', '.join(BUILDERS)}.")
    return _store() / f"{name}-{_recipe(name)}.qcow2"


def ensure_image(name: str, progress: Progress = _silent) -> Path:
    """Return the path of a lab image, built first when the cache has none (about 2 min).

    `progress` is told what happens and the finished fraction (0 to 1). Of two builders at once one
    waits. Needs root.

    Raises:
        NotFound: there is no such lab image.
        ImageBuildFailed: a program or the mirror is missing, or a step failed.
    """
    image = image_path(name)
    if image.exists():
        return image
    image.parent.mkdir(parents=True, exist_ok=True)
    progress("waiting for another builder", 0.0)
    with FileLock(image.parent / ".lock"):
        if not image.exists():
            _discard_abandoned(image.parent)
            with tempfile.TemporaryDirectory(prefix=".build-", dir=image.parent) as folder:
                _build(name, image, Path(folder), progress)
    progress(f"{name} is ready", 1.0)
    return image


def _build(name: str, image: Path, work: Path, progress: Progress) -> None:
    started = time.monotonic()
    packed = _store() / f"rootfs-{rootfs.fingerprint()[:12]}.tar"
    if not packed.exists():
        progress("bootstrapping Debian", 0.05)
        rootfs.bootstrap(work / "rootfs.tar")
        (work / "rootfs.tar").rename(packed)
    progress("unpacking Debian", 0.7)
    tree = work / "debian"
    tree.mkdir()
    rootfs.call(["tar", "--extract", "--numeric-owner", f"--directory={tree}", f"--file={packed}"])
    progress(f"making {name}", 0.8)
    BUILDERS[name](tree, work, work / image.name)
    (work / image.name).rename(image)
    progress(f"built {name} in {time.monotonic() - started:.0f} s", 0.99)


def _store() -> Path:
    return settings().cache / "images"


def _recipe(name: str) -> str:
    """Return a hash of everything that decides what is in an image."""
    here = Path(__file__).parent
    guest = name.partition("-")[0]
    own = sorted((here / "guest" / guest).glob("*.*"))
    digest = hashlib.sha256(rootfs.fingerprint().encode())
    for file in (*(here / shared for shared in SHARED), here / f"{guest}.py", *own):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _discard_abandoned(store: Path) -> None:
    """Remove folders of killed builders; we hold the lock, so nobody works in them."""
    for folder in store.glob(".build-*"):
        if (folder / "mount").is_mount():
            rootfs.call(["umount", "--lazy", str(folder / "mount")])
        shutil.rmtree(folder)
