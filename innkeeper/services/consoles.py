"""What a server's serial console has said since it was started, as its host keeps it."""

import re
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain.naming import console_log, nvram_file, probe_console, probe_name
from innkeeper.host.channel import open_channel
from innkeeper.services import servers

LARGEST_BYTES = 256 * 1024
"""What is read at most: a guest may write without end, and without any line feed."""

PROBE_BYTES = 16 * 1024

# A guest must not drive the terminal of whoever looks at its console: ECMA-48 sequences (CSI, OSC
# and the two-character ones) and control characters other than tab and line feed are left out.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def output(server_id: UUID, project_id: UUID | None = None, *, lines: int = 100) -> str:
    """Return the last lines of a server's console; nothing when it was never started.

    Raises:
        NotFound: there is no such server in the project.
        HostUnreachable: the host does not answer.
    """
    servers.get(server_id, project_id)
    with transaction() as session:
        channel = session.scalar(
            select(Host.channel)
            .join(Server, Server.host_id == Host.id)
            .where(Server.id == server_id)
        )
    if channel is None:
        return ""
    said = _tail(channel, console_log(server_id), LARGEST_BYTES)
    return "".join(f"{line}\n" for line in said.splitlines()[-lines:])


def probe_output(channel: str, server_id: UUID) -> str:
    """Return what the throw-away guest of a verification has said lately on its console.

    Raises:
        HostUnreachable: the host does not answer.
    """
    return _tail(channel, probe_console(server_id), PROBE_BYTES)


def _tail(channel: str, path: str, size: int) -> str:
    said = open_channel(channel).run(["tail", "-c", str(size), "--", path])
    return plain(said.stdout) if said.returncode == 0 else ""  # else there is no such file


def plain(text: str) -> str:
    """Return a console's text without what would move a cursor, colour or retitle a terminal."""
    return _CONTROL.sub("", text)


def forget(channel: str, server_id: UUID) -> None:
    """Remove a console's log from a host, with what was rotated of it; its absence is fine.

    Raises:
        HostUnreachable: the host does not answer.
    """
    _erase(channel, console_log(server_id))


def forget_probe(channel: str, server_id: UUID) -> None:
    """Remove what a host keeps of a throw-away guest: console, libvirt's log of it, NVRAM.

    Raises:
        HostUnreachable: the host does not answer.
    """
    path = probe_console(server_id)
    _erase(channel, path)
    _erase(channel, f"{path.rpartition('/')[0]}/{probe_name(server_id)}.log")
    _erase(channel, nvram_file(probe_name(server_id)))


def _erase(channel: str, path: str) -> None:
    folder, _, name = path.rpartition("/")
    argv = ["find", folder, "-maxdepth", "1", "-type", "f"]
    argv += ["(", "-name", name, "-o", "-name", f"{name}.*", ")", "-delete"]
    open_channel(channel).run(argv)
