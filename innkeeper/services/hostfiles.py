"""Files of guests that outlive their domain: console logs, firmware's memory, halves of such.

They carry the server's name and the head of its id. What no server of this database is called by
is another installation's, and stays.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status
from innkeeper.domain.naming import console_log, console_owner, half_of, nvram_owner, short
from innkeeper.host.channel import HostChannel, open_channel
from innkeeper.services.expectation import Expectation
from innkeeper.services.findings import Finding

NVRAM = "nvram"
HALF_FILE = "half-written-file"
CONSOLE_LOG = "console-log"
NVRAM_FOLDER = "/var/lib/libvirt/qemu/nvram"
CONSOLE_FOLDER = console_log(UUID(int=0)).rpartition("/")[0]
OLD_MINUTES = 10
"""A file that was written to since may be somebody's who has only just come: it is left alone."""


@dataclass(frozen=True)
class _Owner:
    """A server that a file may be of."""

    id: UUID
    busy: bool
    away: bool


def strays(expected: Expectation, domains: set[str]) -> list[Finding]:
    """Find what of a host's files outlived its domain, or is half of what was to be written.

    Raises:
        HostUnreachable: the host does not answer.
    """
    if expected.host.virt_type == "test":
        return []
    argv = ["find", NVRAM_FOLDER, CONSOLE_FOLDER, "-maxdepth", "1", "-type", "f"]
    argv += ["(", "-name", "ik-*_VARS.fd", "-o", "-name", ".ik-*_VARS.fd.*"]
    argv += ["-o", "-name", "innkeeper-*.log*", ")"]
    argv += ["(", "-mmin", f"+{OLD_MINUTES}", "-printf", "old %p\\n", "-o", "-printf", "new %p\\n"]
    listed = open_channel(expected.host.channel).run([*argv, ")"]).stdout.splitlines()
    found = []
    for age, _, path in (line.partition(" ") for line in listed):
        if console_owner(path):
            found += _console(expected, path)
        elif half_of(path):
            found += [_half(expected, path)] if age == "old" else []
        elif path.rpartition("/")[2].removesuffix("_VARS.fd") not in domains:
            found.append(_memory(expected, path, old=age == "old"))
    return found


def _console(expected: Expectation, path: str) -> list[Finding]:
    owner = console_owner(path)
    known = expected.servers.get(owner) if owner else None
    if known is None or not known.gone:
        return []
    why = f"its server is {known.status}"
    return [Finding(expected.host.name, CONSOLE_LOG, path, why, owner, reapable=True)]


def _half(expected: Expectation, path: str) -> Finding:
    """Find what a writer that was killed left beside what it was to write."""
    owner = _owner(expected.host.id, nvram_owner(half_of(path) or ""))
    why = "half of a file, whose writer is gone"
    ours, whose = owner is not None, owner.id if owner else None
    return Finding(expected.host.name, HALF_FILE, path, why, whose, reapable=ours)


def _memory(expected: Expectation, path: str, *, old: bool) -> Finding:
    owner = _owner(expected.host.id, nvram_owner(path))
    gone = owner is not None and owner.away and not owner.busy
    whose = owner.id if owner else None
    why = "no domain has it"
    return Finding(expected.host.name, NVRAM, path, why, whose, reapable=old and gone)


def is_astray(host_id: UUID, path: str) -> bool:
    """Tell whether a firmware's memory is still one of a server that is elsewhere, and stays so."""
    owner = _owner(host_id, nvram_owner(path))
    return owner is not None and owner.away and not owner.busy


def remove(channel: HostChannel, path: str) -> None:
    """Remove a stray file, unless somebody has written to it since it was found.

    Raises:
        HostUnreachable, CommandFailed: it stays.
    """
    folder, _, name = path.rpartition("/")
    argv = ["find", folder, "-maxdepth", "1", "-type", "f", "-name", name]
    channel.run([*argv, "-mmin", f"+{OLD_MINUTES}", "-delete"]).check()


def _owner(host_id: UUID, head: str | None) -> _Owner | None:
    """Return the server whose id begins so, and whether nothing of it should be on the host.

    Of a shelved one only if the database has what its firmware remembers: should the database be
    older than what it tells of, the file is perhaps all that there is.
    """
    if head is None:
        return None
    with transaction() as session:
        ids = [found for found in session.scalars(select(Server.id)) if short(found) == head]
        if len(ids) != 1:
            return None
        server = session.get_one(Server, ids[0])
        here = server.reserved and host_id in {server.host_id, server.other_host_id}
        gone = server.status == Status.DELETED or not here
        if server.status == Status.SHELVED:
            gone = server.nvram is not None
        return _Owner(server.id, server.operation_id is not None, gone)
