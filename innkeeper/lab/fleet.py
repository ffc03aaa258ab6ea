"""The lab: several disposable libvirt hosts on this machine."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from innkeeper.errors import NotFound
from innkeeper.lab import cable, daemons, host
from innkeeper.lab.errors import LabCannotStart, LabNeedsRoot
from innkeeper.lab.layout import HostLayout
from innkeeper.settings import settings

PROGRAMS = (
    "libvirtd",
    "qemu-system-x86_64",
    "dnsmasq",
    "nft",
    "unshare",
    "nsenter",
    "setpriv",
    "mount",
)
LOCK = Path("/run/lock/innkeeper-lab.lock")
NAME = re.compile(r"lab(\d{1,3})")


@dataclass(frozen=True, slots=True)
class LabHost:
    """A lab host as the rest of Innkeeper needs to know it."""

    name: str
    uri: str
    edge_address: str
    pool_path: str
    channel_address: str


class Lab:
    """The lab hosts of one Innkeeper home, named lab1, lab2 and so on.

    `first_index` is where to start looking for a free 10.88.<index>.0 network.
    """

    def __init__(self, home: Path | None = None, *, first_index: int = 1) -> None:
        self.root = (home or settings().home) / "lab"
        self.first_index = first_index

    def up(self, count: int) -> list[LabHost]:
        """Bring up the hosts lab1 to lab<count>; hosts beyond stay as they are. Idempotent.

        Raises:
            LabNeedsRoot: this process is not root.
            LabCannotStart: a program is missing, or something refused.
        """
        self._require_root()
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise LabCannotStart(
                f"Not installed: {', '.join(missing)}. Install libvirt-daemon-system "
                "qemu-system-x86 dnsmasq-base nftables, then retry."
            )
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            for number in range(1, count + 1):
                host.bring_up(self._layout(f"lab{number}"), self.first_index)
        return self.hosts()

    def down(self, *, purge: bool = False) -> None:
        """Take every host down, guests included; with `purge` their folders and disks go, too.

        Raises:
            LabNeedsRoot: this process is not root.
            LabProcessesRemain: a process did not end.
        """
        self._require_root()
        with self._alone():
            for layout in self._layouts():
                host.tear_down(layout)
                if purge:
                    host.purge(layout)

    def restart(self, name: str) -> None:
        """Restart a host's libvirtd; guests keep running.

        Raises:
            NotFound: there is no such host.
            LabCannotStart: libvirtd did not come back.
        """
        self._require_root()
        layout = self._known(name)
        with self._alone():
            daemons.stop(layout)
            host.bring_up(layout, self.first_index)

    def exec(self, name: str, argv: Sequence[str]) -> int:
        """Run `argv` inside a host with this process's terminal; return its exit code.

        Raises:
            NotFound: there is no such host, or it is not up.
        """
        self._require_root()
        layout = self._known(name)
        if not layout.pinned():
            raise NotFound(f"Lab host {name} is not up: run `innkeeper lab up` first.")
        return subprocess.run(layout.enter(argv), check=False).returncode

    def hosts(self) -> list[LabHost]:
        """Return every host that was ever brought up and not purged, in order."""
        found = []
        for layout in self._layouts():
            if record := host.read_record(layout):
                edge = cable.edge_address(record.index)
                pool = str(layout.pool)
                found.append(LabHost(layout.name, layout.uri, edge, pool, f"lab://{layout.name}"))
        return found

    def running(self, name: str) -> bool:
        """Tell whether a host's libvirtd answers.

        Raises:
            NotFound: there is no such host.
        """
        layout = self._known(name)
        return layout.pinned() and daemons.answers(layout.socket)

    def _layout(self, name: str) -> HostLayout:
        return HostLayout(self.root, name)

    def _layouts(self) -> list[HostLayout]:
        if not self.root.is_dir():
            return []
        names = [p.name for p in self.root.iterdir() if p.is_dir() and NAME.fullmatch(p.name)]
        return [self._layout(name) for name in sorted(names, key=lambda n: int(n[3:]))]

    def _known(self, name: str) -> HostLayout:
        known = {layout.name: layout for layout in self._layouts()}
        if name not in known:
            have = ", ".join(known) or "none; run `innkeeper lab up` first"
            raise NotFound(f"There is no lab host '{name}'. Hosts: {have}.")
        return known[name]

    @staticmethod
    def _require_root() -> None:
        if os.geteuid() != 0:
            raise LabNeedsRoot("The lab makes namespaces and mounts: run this as root.")

    @staticmethod
    @contextmanager
    def _alone() -> Iterator[None]:
        """Only one lab on the machine changes at a time: they share the 10.88.x.0 networks."""
        LOCK.parent.mkdir(parents=True, exist_ok=True)
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
