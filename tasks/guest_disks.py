"""Asking a guest about one of its disks, which it knows by the serial number.

The guest agent runs the script; where it may not, or there is none, a login does.
"""

from innkeeper.configuration import login
from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import agent, guest
from innkeeper.hypervisor.connection import connect
from innkeeper.services.blueprint import Blueprint
from tasks.guest_login import target_of

SECONDS = 30.0
_BLOCK = """
for block in /sys/block/*; do
  [ "$(cat "$block/serial" 2>/dev/null)" = "$1" ] || continue
  disk=$(basename "$block")
"""
USES = f"""{_BLOCK}
  for part in "$block" "$block/$disk"*; do
    [ -f "$part/dev" ] || continue
    node=/dev/$(basename "$part")
    awk -v number="$(cat "$part/dev")" -v node="$node" \
      '$3 == number || $(NF - 1) == node {{print "mounted at " $5}}' /proc/self/mountinfo
    awk -v node="$node" '$1 == node {{print "swap"}}' /proc/swaps
    for holder in "$part"/holders/*; do
      [ -e "$holder" ] && echo "part of $(basename "$holder")"
    done
  done
done
exit 0
"""
"""Tells what the disk and its partitions are used for, one use a line."""

EXPAND = f"""{_BLOCK}
  set -e
  mounts=$(awk -v node="/dev/$disk" '$1 == node {{print $2 " " $3; exit}}' /proc/mounts)
  [ -n "$mounts" ] || {{ echo "nothing on the disk itself is mounted"; exit 3; }}
  place=$(printf '%b' "${{mounts% *}}")
  case ${{mounts##* }} in
    ext*) resize2fs "/dev/$disk" ;;
    xfs) xfs_growfs "$place" ;;
    btrfs) btrfs filesystem resize max "$place" ;;
    *) echo "do not know how to grow ${{mounts##* }}"; exit 3 ;;
  esac >/dev/null
  df -k "$place" | awk -v place="$place" \
    'END {{print "file system at " place " of " int($2 / 1024) " MiB"}}'
  exit 0
done
echo "the guest does not see the disk"
exit 3
"""
"""Grows the file system that is directly on the disk and mounted; ends with 3 when there is none.

`/proc/mounts` writes a blank in a path as \\040, which printf reads.
"""


def uses(b: Blueprint, serial: str) -> list[str] | None:
    """Return what a guest uses a disk for, each as words; None when it cannot be asked."""
    try:
        return [line for line in _ask(b, USES, serial).splitlines() if line]
    except InnkeeperError:
        return None


def expand(b: Blueprint, serial: str) -> str:
    """Have a guest grow the file system on a disk; say how large it is, or why it has not grown."""
    try:
        return _ask(b, EXPAND, serial)
    except InnkeeperError as error:
        return f"the disk has grown, its file system not: {str(error)[-500:]}"


class _Unwilling(InnkeeperError):
    """The script ended, but has not done what it was to do."""


def _ask(b: Blueprint, script: str, serial: str) -> str:
    argv = ["/bin/sh", "-c", script, "sh", serial]
    connection = connect(b.host.uri)
    try:
        guest.bound_agent(connection, b.server_id, SECONDS)
        ended = agent.execute(connection, b.server_id, argv, seconds=SECONDS)
    except InnkeeperError:  # no agent, or it may not run programs
        return login.run(target_of(b), ["sudo", *argv], timeout=SECONDS).strip()
    if ended.code != 0:
        raise _Unwilling(ended.errors or ended.output)
    return ended.output
