"""What an image is, whether it is whole, and making a qcow2 of it: qemu-img under limits.

An image is hostile until proven otherwise: formats can name other files of this machine (backing
files, external data files, extents), and QEMU opens them. So the format is read from the content
here, everything that can name a file is refused before and after `qemu-img info`, and qemu-img
never guesses a format nor runs without limits.
"""

import json
import logging
import os
import re
import select
import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from innkeeper.errors import TransientError
from innkeeper.images.failure import (
    ImageCorrupt,
    ImageRefused,
    ImageTooLarge,
    ShelfFull,
    StoreFull,
)
from innkeeper.settings import settings

_log = logging.getLogger(__name__)

Format = Literal["qcow2", "raw", "vmdk", "vdi", "vhdx"]
OnProgress = Callable[[float], None]

INFO_SECONDS = 30
TICK_SECONDS = 1.0
CHECK_SECONDS = 1800
CONVERT_SECONDS = 7200
_MEMORY_BYTES = 2 << 30
_HEADER_BYTES = 4096
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_NO_SPACE = "No space left"
_LEAKS = 3  # qemu-img check: unused space, nothing wrong with the data
_NO_CHECK = 63  # qemu-img check: this format has none


class QemuImgTimedOut(TransientError):
    """qemu-img took longer than it may."""


@dataclass(frozen=True)
class ImageInfo:
    """What an image describes; sizes in bytes."""

    format: Format
    virtual_size: int
    has_backing: bool = False


def detect(path: Path) -> Format:
    """Return an image's format by its content.

    Raises:
        ImageRefused: it is compressed, refers to other files, or is no disk image.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if head[:4] == b"QFI\xfb":
        _refuse_referring_qcow2(head, path)
        return "qcow2"
    if head[:4] == b"KDMV":
        # Without a capacity of its own, the file is a list of other files.
        if len(head) < 20 or struct.unpack_from("<Q", head, 12)[0] == 0:  # noqa: PLR2004
            raise ImageRefused("The VMDK image refers to other files: use one single file.")
        return "vmdk"
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi"
    if head[:8] == b"vhdxfile":
        return "vhdx"
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ImageRefused(f"The image is compressed ({name}): import it unpacked.")
    if head[510:512] == b"\x55\xaa":
        return "raw"
    raise ImageRefused(
        "This is no disk image: it is neither qcow2, VMDK, VDI nor VHDX, and as a raw disk it has "
        "no partition table. Check what the source delivers."
    )


def inspect(path: Path, *, limit_bytes: int | None = None) -> ImageInfo:
    """Return what an image is; refuse it when it could reach beyond its own file.

    `limit_bytes` bounds the described disk; `image_size_limit_gib` of the settings when None.

    Raises:
        ImageRefused: as `detect`, or the image is encrypted.
        ImageCorrupt: qemu-img cannot read it.
        ImageTooLarge: the disk that it describes is larger than allowed.
    """
    found = detect(path)
    argv = ["qemu-img", "info", "--output=json", "-f", found, str(path.absolute())]
    done = _limited(argv, INFO_SECONDS)
    if done.returncode:
        raise ImageCorrupt(_damaged(done.stderr))
    told: dict[str, Any] = json.loads(done.stdout)
    _refuse_referring(told, path)
    limit = limit_bytes or settings().image_size_limit_gib << 30
    size = int(told["virtual-size"])
    if size > limit:
        raise ImageTooLarge(
            f"The image describes a disk of {size / (1 << 30):.0f} GiB, the limit is "
            f"{limit / (1 << 30):g} GiB: use a smaller one, or raise "
            "INNKEEPER_IMAGE_SIZE_LIMIT_GIB."
        )
    if size == 0:
        raise ImageCorrupt("The image describes an empty disk: check what the source delivers.")
    return ImageInfo(found, size)


def check(
    path: Path, image_format: Format = "qcow2", *, tick: Callable[[], None] | None = None
) -> None:
    """Check an image's own consistency; formats without one pass.

    `tick` is called about once a second; when it raises, qemu-img is ended.

    Raises:
        ImageCorrupt: it is damaged.
    """
    argv = ["qemu-img", "check", "--output=json", "-f", image_format, str(path.absolute())]
    done = _limited(argv, CHECK_SECONDS, tick)
    if done.returncode not in {0, _LEAKS, _NO_CHECK}:
        raise ImageCorrupt(_damaged(done.stderr or done.stdout))
    if done.returncode in {0, _LEAKS}:
        told = json.loads(done.stdout)
        if told.get("corruptions") or told.get("check-errors"):
            raise ImageCorrupt(_damaged(done.stderr))


def convert(
    path: Path,
    image_format: Format,
    target: Path,
    *,
    on_progress: OnProgress | None = None,
    deadline_seconds: float = CONVERT_SECONDS,
) -> None:
    """Write an inspected image as qcow2 to `target`, which is overwritten.

    `on_progress` is told the fraction from 0 to 1; when it raises, qemu-img is ended.

    Raises:
        ImageCorrupt: the image cannot be read to its end.
        StoreFull: no space is left for the copy.
        QemuImgTimedOut: it took longer than `deadline_seconds`.
    """
    argv = ["qemu-img", "convert", "-p", "-f", image_format, "-O", "qcow2", "-o", "compat=1.1"]
    argv += [str(path.absolute()), str(target.absolute())]
    said = _converted(argv, on_progress, deadline_seconds)
    if said is not None:
        if _NO_SPACE in said:
            raise StoreFull(f"No space is left to convert the image in {target.parent}.")
        raise ImageCorrupt(_damaged(said))


def compress(
    layer: Path,
    chain: Sequence[Path],
    target: Path,
    *,
    compression: str,
    on_progress: OnProgress | None = None,
    deadline_seconds: float = CONVERT_SECONDS,
) -> None:
    """Write a qcow2 layer compressed to `target`; both lie on `chain`, whatever the layer says.

    The chain, nearest first, is in the folder of `target`, which names what it lies on by its file
    name alone: so it fits into any folder that has that.

    Raises:
        ImageCorrupt: the layer cannot be read to its end.
        ShelfFull: no space is left for the copy.
        QemuImgTimedOut: it took longer than `deadline_seconds`.
    """
    options = f"compat=1.1,compression_type={compression}"
    argv = ["qemu-img", "convert", "-p", "-c", "--image-opts", "-O", "qcow2", "-o", options]
    if chain:
        argv += ["-B", chain[0].name, "-F", "qcow2"]
    argv += [_opened(layer, chain), str(target.absolute())]
    said = _converted(argv, on_progress, deadline_seconds)
    if said is not None:
        if _NO_SPACE in said:
            raise ShelfFull(f"No space is left on the shelf, {target.parent}: free some there.")
        raise ImageCorrupt(_damaged(said))


def same_content(
    layer: Path, other: Path, chain: Sequence[Path], *, tick: Callable[[], None] | None = None
) -> bool:
    """Tell whether a guest would see the same in two layers on one chain, nearest first.

    Raises:
        ImageCorrupt: one of them cannot be read.
    """
    argv = ["qemu-img", "compare", "--image-opts", _opened(layer, chain), _opened(other, chain)]
    done = _limited(argv, CHECK_SECONDS, tick)
    if done.returncode > 1:
        raise ImageCorrupt(_damaged(done.stderr or done.stdout))
    return done.returncode == 0


def rebase(
    layer: Path, onto: Path, *, header_only: bool = False, tick: Callable[[], None] | None = None
) -> None:
    """Make a qcow2 layer lean on another file: it takes over what differs, or only names it.

    Raises:
        ImageCorrupt: one of the files cannot be read.
        ShelfFull: no space is left.
        QemuImgTimedOut: it took too long.
    """
    argv = ["qemu-img", "rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(onto.absolute())]
    argv += ["-u", str(layer.absolute())] if header_only else [str(layer.absolute())]
    done = _limited(argv, CONVERT_SECONDS, tick)
    if done.returncode:
        if _NO_SPACE in done.stderr:
            raise ShelfFull(f"No space is left on the shelf, {layer.parent}: free some there.")
        raise ImageCorrupt(_damaged(done.stderr))


def create_empty(target: Path, size_bytes: int) -> None:
    """Make an empty qcow2 disk.

    Raises:
        ImageCorrupt: qemu-img could not.
    """
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", str(target.absolute()), str(size_bytes)]
    done = _limited(argv, INFO_SECONDS)
    if done.returncode:
        raise ImageCorrupt(_damaged(done.stderr))


def _opened(layer: Path, chain: Sequence[Path]) -> str:
    """Return how qemu-img is to open a layer: on this chain, not on what the headers name."""
    parts, at = [], ""
    for path in (layer, *chain):
        if "," in str(path.absolute()):
            raise ImageRefused(
                "qemu-img takes no file name with a comma here: choose another folder."
            )
        parts += [f"{at}driver=qcow2", f"{at}file.driver=file"]
        parts.append(f"{at}file.filename={path.absolute()}")
        at += "backing."
    return ",".join([*parts, f"{at.removesuffix('.')}="])


def _converted(
    argv: list[str], on_progress: OnProgress | None, deadline_seconds: float
) -> str | None:
    """Run qemu-img; return None, or what it said when it failed."""
    until = monotonic() + deadline_seconds
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            _bounded(argv, deadline_seconds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as child,
    ):
        try:
            _follow(child, on_progress or (lambda _fraction: None), until)
        except BaseException:
            child.kill()
            raise
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
    return said if child.returncode else None


def _follow(child: "subprocess.Popen[bytes]", on_progress: OnProgress, until: float) -> None:
    """Report progress, at least every second, until the child ends."""
    assert child.stdout is not None  # noqa: S101 - opened as a pipe above
    fraction = 0.0
    while True:
        if select.select([child.stdout], [], [], TICK_SECONDS)[0]:
            said = os.read(child.stdout.fileno(), 4096)
            if not said:
                break
            if percents := _PERCENT.findall(said):
                fraction = float(percents[-1]) / 100
        on_progress(fraction)
        if monotonic() > until:
            raise QemuImgTimedOut("Converting the image took too long: it is tried again.")
    child.wait()


def _refuse_referring_qcow2(head: bytes, path: Path) -> None:
    """Refuse by the header's own words (QEMU's docs/interop/qcow2.txt), before QEMU sees it."""
    try:
        version, backing = struct.unpack_from(">IQ", head, 4)
        (encryption,) = struct.unpack_from(">I", head, 32)
        features = struct.unpack_from(">Q", head, 72)[0] if version > 2 else 0  # noqa: PLR2004
    except struct.error as error:
        raise ImageCorrupt(_damaged(f"{path.name} ends within its header")) from error
    if backing:
        raise ImageRefused(_REFERS.format("a backing file"))
    if features & 4:  # incompatible feature bit 2
        raise ImageRefused(_REFERS.format("an external data file"))
    if encryption:
        raise ImageRefused("The image is encrypted: import it decrypted.")


_REFERS = (
    "The image refers to {}, which could be any file of the importing machine: flatten it with "
    "`qemu-img convert -O qcow2`, then import the result."
)


def _refuse_referring(told: dict[str, Any], path: Path) -> None:
    """Refuse by what QEMU found in it."""
    if told.get("backing-filename") or told.get("full-backing-filename"):
        raise ImageRefused(_REFERS.format("a backing file"))
    if told.get("encrypted"):
        raise ImageRefused("The image is encrypted: import it decrypted.")
    details = (told.get("format-specific") or {}).get("data") or {}
    if details.get("data-file"):
        raise ImageRefused(_REFERS.format("an external data file"))
    for extent in details.get("extents") or ():
        if Path(extent.get("filename", "")) != path.absolute():
            raise ImageRefused(_REFERS.format("another file"))


def _bounded(argv: list[str], seconds: float) -> list[str]:
    """Return the command under limits of memory and processor time, and without core dumps."""
    limits = [f"--as={_MEMORY_BYTES}", f"--cpu={max(1, round(seconds))}", "--core=0"]
    return ["prlimit", *limits, "--", *argv]


def _limited(
    argv: list[str], seconds: int, tick: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    with subprocess.Popen(
        _bounded(argv, seconds),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        until = monotonic() + seconds
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=TICK_SECONDS)
                except subprocess.TimeoutExpired:
                    if monotonic() > until:
                        raise QemuImgTimedOut(
                            f"qemu-img {argv[1]} took longer than {seconds} s: it is tried again."
                        ) from None
                    if tick is not None:
                        tick()
                else:
                    return subprocess.CompletedProcess(argv, child.returncode, out, err)
        except BaseException:
            child.kill()
            raise


def _damaged(said: str) -> str:
    lines = said.strip().splitlines() or ["qemu-img gave no reason"]
    reason = lines[0].removeprefix("qemu-img: ")[:300].rstrip(".")
    return f"The image is damaged ({reason}): check the source, then import it again."
