"""What a server's serial console has said since it was started, as its host keeps it."""

import re
from uuid import UUID

from sqlalchemy import select

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain.naming import console_log
from innkeeper.host.channel import open_channel
from innkeeper.services import servers

LARGEST_BYTES = 256 * 1024
"""What is read at most: a guest may write without end, and without any line feed."""

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
    argv = ["tail", "-c", str(LARGEST_BYTES), "--", console_log(server_id)]
    said = open_channel(channel).run(argv)
    if said.returncode != 0:  # no such file
        return ""
    return "".join(f"{line}\n" for line in plain(said.stdout).splitlines()[-lines:])


def plain(text: str) -> str:
    """Return a console's text without what would move a cursor, colour or retitle a terminal."""
    return _CONTROL.sub("", text)


def forget(channel: str, server_id: UUID) -> None:
    """Remove a console's log from a host, with what was rotated of it; its absence is fine.

    Raises:
        HostUnreachable: the host does not answer.
    """
    folder, _, name = console_log(server_id).rpartition("/")
    argv = ["find", folder, "-maxdepth", "1", "-type", "f"]
    argv += ["(", "-name", name, "-o", "-name", f"{name}.*", ")", "-delete"]
    open_channel(channel).run(argv)
