"""Control groups of a lab host, for machines with version 1 controllers or version 2.

Without a group of its own, two libvirt daemons would share `/machine/qemu-<id>-<name>` and the
quotas of one host's guests would bind the other's.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS_V1 = ("cpu", "cpuacct", "cpuset", "blkio", "freezer", "devices", "memory")
CONTROLLERS_V2 = ("cpu", "cpuset", "io", "memory", "pids")


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The groups named `name` in every hierarchy; `root` is only different in tests."""

    name: str
    root: Path = ROOT

    @property
    def unified(self) -> bool:
        """Tell whether this machine uses version 2 only."""
        return (self.root / "cgroup.controllers").exists()

    def controllers(self) -> list[str]:
        """Return the version 1 hierarchies to use; none under version 2."""
        return [c for c in CONTROLLERS_V1 if not self.unified and (self.root / c).is_dir()]

    def folders(self) -> list[Path]:
        """Return the host's top group in every hierarchy."""
        if self.unified:
            return [self.root / self.name]
        return [self._folder(controller) for controller in self.controllers()]

    def _folder(self, controller: str) -> Path:
        """Return the host's top group of a version 1 controller.

        That of memory is below the group of whoever started the lab, so that a limit on the whole
        session keeps holding.
        """
        hierarchy = self.root / controller
        if controller != "memory":
            return hierarchy / self.name
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.split(":", 2)[2] for line in lines if ":memory:" in line), "/")
        below = hierarchy / own.lstrip("/")
        mine = (below if below.is_dir() else hierarchy) / self.name
        if mine.is_dir():
            return mine
        elsewhere = (
            Path(place) for place, folders, _ in os.walk(hierarchy) if self.name in folders
        )
        return next((place / self.name for place in elsewhere), mine)

    def ensure(self) -> None:
        """Make the groups, ready to take processes.

        Raises:
            OSError: no right to make groups here.
        """
        for folder in self.folders():
            folder.mkdir(exist_ok=True)
        if self.unified:
            self._delegate(self.root)
            return
        cpuset = self.root / "cpuset"
        if cpuset.is_dir():
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty at first: nothing could join
                own = cpuset / self.name / file
                if not own.read_text().strip():
                    own.write_text((cpuset / file).read_text())

    def daemons(self) -> Path | None:
        """Return a leaf group for the host's daemons, made when missing; none without groups.

        It tells whose they are even after the namespaces were unpinned. And under version 2 they
        must not stay in the group of the shell that started them, and cannot live in the top
        group, which delegates controllers.
        """
        candidates = [self.root / self.name] if self.unified else self._plain()
        if not candidates:
            return None
        leaf = candidates[0] / "daemons"
        leaf.mkdir(exist_ok=True)
        return leaf

    def members(self) -> set[int]:
        """Return the ids of all processes in the groups and in the groups below them."""
        found: set[int] = set()
        for group in self._groups():
            with suppress(OSError):  # the group went away meanwhile
                found |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
        return found

    def remove(self) -> None:
        """Remove the groups, deepest first; a group that is not there is fine.

        Raises:
            OSError: a group still holds a process.
        """
        for group in self._groups():
            with suppress(FileNotFoundError):  # libvirtd removes a guest's group, too
                group.rmdir()

    def _groups(self) -> Iterator[Path]:
        """Yield every group of the host, those below before those above."""
        for folder in self.folders():
            for group, _, _ in os.walk(folder, topdown=False):
                yield Path(group)

    def _plain(self) -> list[Path]:
        """Return version 1 groups that a process may join without more ado (not cpuset)."""
        return [folder for folder in self.folders() if folder.parent.name == "freezer"]

    def _delegate(self, folder: Path) -> None:
        """Let the groups below `folder` use the controllers that it has."""
        offered = (folder / "cgroup.controllers").read_text().split()
        wanted = [f"+{c}" for c in CONTROLLERS_V2 if c in offered]
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))
