"""Control groups of a lab host, for machines with version 1 controllers or version 2.

Without a group of its own, two libvirt daemons would share `/machine/qemu-<id>-<name>` and the
quotas of one host's guests would bind the other's.
"""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Not memory on version 1: guests stay in the memory group of whoever started the lab, so that a
# limit on the whole session keeps holding.
CONTROLLERS_V1 = ("cpu", "cpuacct", "cpuset", "blkio", "freezer", "devices")
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
        return [self.root / controller / self.name for controller in self.controllers()]

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

    def adopt(self, pid: int) -> None:
        """Put a daemon of the host into a leaf group of its own (version 2 only).

        It must not stay in the group of the shell that started it, and it cannot live in the top
        group: version 2 allows no processes in a group that delegates controllers.
        """
        if self.unified:
            leaf = self.root / self.name / "daemons"
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(pid))

    def members(self) -> set[int]:
        """Return the ids of all processes in the groups and in the groups below them."""
        files = [file for folder in self.folders() for file in folder.rglob("cgroup.procs")]
        return {int(pid) for file in files for pid in file.read_text().split()}

    def remove(self) -> None:
        """Remove the groups, deepest first; a group that is not there is fine.

        Raises:
            OSError: a group still holds a process.
        """
        for folder in self.folders():
            if not folder.exists():
                continue
            below = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
            for group in [*below, folder]:
                group.rmdir()

    def _delegate(self, folder: Path) -> None:
        """Let the groups below `folder` use the controllers that it has."""
        offered = (folder / "cgroup.controllers").read_text().split()
        wanted = [f"+{c}" for c in CONTROLLERS_V2 if c in offered]
        (folder / "cgroup.subtree_control").write_text(" ".join(wanted))
