"""Disk images made by qemu-img, and what the image store holds of them."""

import hashlib
import subprocess
from pathlib import Path

from innkeeper.settings import settings


def qemu_img(*argv: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, capture_output=True)


def as_format(disk: Path, kind: str, *options: str) -> Path:
    path = disk.with_suffix(f".{kind}")
    qemu_img("convert", "-f", "raw", "-O", kind, *options, disk, path)
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ready() -> list[Path]:
    return sorted(settings().image_store.glob("*.qcow2"))


def waiting() -> list[Path]:
    return [p for p in (settings().image_store / ".incoming").rglob("*") if p.suffix != ".lock"]
