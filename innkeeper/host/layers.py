"""What libvirt has no call for: changing what a qcow2 file leans on while nobody has it open.

qemu-img takes the file's lock, so a file that QEMU has open is refused, not broken.
"""

from pathlib import Path

from innkeeper.host.channel import CommandFailed, HostChannel

_COPY_SECONDS = 6 * 3600.0
_HEADER_SECONDS = 60.0


class NoSpaceLeft(CommandFailed):
    """The file system under the pool has no space left for what qemu-img writes."""

    status = 507
    slug = "pool-full"
    title = "Storage pool full"


def rebase(channel: HostChannel, volume: Path, onto: Path) -> None:
    """Make a file lean on another one and keep its content: it takes over what differs.

    Killed halfway it still leans on the old one and has the same content: call it again.

    Raises:
        NoSpaceLeft: the pool is full.
        CommandFailed: qemu-img's last words say why.
    """
    argv = ["qemu-img", "rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(onto), str(volume)]
    _run(channel, argv, _COPY_SECONDS)


def repoint(channel: HostChannel, volume: Path, onto: Path) -> None:
    """Name another file of the same content as what a file leans on.

    Raises:
        CommandFailed: qemu-img's last words say why.
    """
    argv = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(onto), str(volume)]
    _run(channel, argv, _HEADER_SECONDS)


def commit(channel: HostChannel, volume: Path) -> None:
    """Put what is in a file into the one it leans on, and keep it.

    Raises:
        CommandFailed: qemu-img's last words say why.
    """
    argv = ["qemu-img", "commit", "-d", "-f", "qcow2", str(volume)]
    _run(channel, argv, _COPY_SECONDS)


def _run(channel: HostChannel, argv: list[str], seconds: float) -> None:
    done = channel.run(argv, timeout=seconds)
    if done.returncode != 0 and "No space left on device" in done.stderr:
        raise NoSpaceLeft(
            f"There is no space left in the host's storage pool for {Path(argv[-1]).name}: free "
            "space in the pool, then try again."
        )
    done.check()
