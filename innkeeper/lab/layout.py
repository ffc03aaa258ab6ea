"""Where a lab host keeps its things, and how to get into it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the closing zero
NAMESPACES = {"net": "net", "mnt": "mount", "uts": "uts", "cgroup": "cgroup"}


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted at `path`, a bind mount of the same file system included.

    `Path.is_mount` compares devices and so misses those.
    """
    place = str(path).replace(" ", "\\040")
    with Path("/proc/self/mountinfo").open() as mounts:
        return any(line.split(" ", 5)[4] == place for line in mounts)


@dataclass(frozen=True, slots=True)
class HostLayout:
    """The folder of one lab host (`root` is the folder of the whole lab)."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Everything of this host on disk."""
        return self.root / self.name

    @property
    def pool(self) -> Path:
        """Folder for storage pools; the same path inside and outside of the namespaces."""
        return self.folder / "pool"

    @property
    def run(self) -> Path:
        """The host's `/run`."""
        return self.folder / "run"

    @property
    def socket(self) -> Path:
        """Where libvirtd listens."""
        return self.run / "libvirt" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """Libvirt URI that works from outside of the namespaces."""
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def pins(self) -> Path:
        """Folder of the files that keep the namespaces alive without any process in them."""
        return self.folder / "ns"

    @property
    def mark(self) -> str:
        """A name for this host that no other lab of this machine uses (11 characters or less)."""
        return f"ik{hashlib.sha256(str(self.root).encode()).hexdigest()[:4]}{self.name[-5:]}"

    @property
    def veth(self) -> str:
        """Outer end of the host's network cable."""
        return f"{self.mark}o"

    @property
    def unfinished(self) -> Path:
        """Exists while the namespaces are being furnished, and after a maker that was killed."""
        return self.folder / "unfinished"

    def pinned(self) -> bool:
        """Tell whether the namespaces exist and have all their mounts."""
        whole = all(is_mounted(self.pins / kind) for kind in NAMESPACES)
        return whole and not self.unfinished.exists()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` inside the host."""
        flags = [f"--{flag}={self.pins / kind}" for kind, flag in NAMESPACES.items()]
        return ["nsenter", *flags, "--", *argv]
