"""The host channel: run a command or place a file on a host, however the host is reached.

Nothing else in Innkeeper knows how that is. Addresses: `local:`, `ssh://user@host:port`,
`lab://NAME` (a lab host of this home), `simulated:NAME` (a folder; for tests and scale).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from innkeeper.errors import InvalidRequest, PermanentError, TransientError


class CommandFailed(PermanentError):
    """A command on a host ended with another exit code than 0."""

    slug = "command-failed"
    title = "Command on a host failed"


class CommandTimedOut(TransientError):
    """A command on a host did not end in its time."""

    slug = "command-timed-out"
    title = "Command on a host timed out"


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended; a negative `returncode` is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    def check(self) -> "CommandResult":
        """Return the result itself when the command succeeded.

        Raises:
            CommandFailed: the exit code is not 0. The text carries the program and the last line
                of its error output, never its arguments, which may be private.
        """
        if self.returncode != 0:
            lines = self.stderr.strip().splitlines() or ["no error output"]
            raise CommandFailed(f"{self.argv[0]} ended with code {self.returncode}: {lines[-1]}")
        return self


class HostChannel(Protocol):
    """What every kind of channel can do. Blocking, safe to share between threads."""

    def run(
        self,
        argv: Sequence[str],
        input: str | bytes | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float = 30.0,
    ) -> CommandResult:
        """Run `argv` as root would on the host and return how it ended; `timeout` in seconds.

        Raises:
            HostUnreachable: the host does not answer.
            CommandTimedOut: the command was ended because it took longer than `timeout`.
        """

    def write_file(self, path: str, data: str | bytes, mode: int = 0o600) -> None:
        """Put `data` at the absolute `path`: whole or not at all, with `mode` from the start.

        Raises:
            HostUnreachable: the host does not answer.
            CommandFailed: the folder is missing or full.
        """

    def read_file(self, path: str) -> bytes:
        """Return what is in the file at `path`.

        Raises:
            HostUnreachable: the host does not answer.
            NotFound: there is no such file.
        """

    def remove_file(self, path: str) -> None:
        """Remove the file at `path`; its absence is fine.

        Raises:
            HostUnreachable: the host does not answer.
        """


def open_channel(address: str) -> HostChannel:
    """Return the channel that `address` names. Opening is cheap: nothing is contacted yet.

    Raises:
        InvalidRequest: the address is of no known kind or lacks its name.
    """
    # Imported here: a process that only talks to one kind need not load the others.
    kind, _, rest = address.partition(":")
    name = rest.removeprefix("//")
    if kind == "local" and not name:
        from innkeeper.host.local import LocalChannel  # noqa: PLC0415

        return LocalChannel()
    if kind == "lab" and name:
        from innkeeper.host.lab import LabChannel  # noqa: PLC0415

        return LabChannel(name)
    if kind == "simulated" and name:
        from innkeeper.host.simulated import SimulatedChannel  # noqa: PLC0415

        return SimulatedChannel(name)
    if kind == "ssh" and (parts := urlsplit(address)).hostname:
        from innkeeper.host.ssh import SshChannel  # noqa: PLC0415

        return SshChannel(parts.hostname or "", parts.port or 22, parts.username or "root")
    raise InvalidRequest(
        f"'{address}' is no host channel: use local:, ssh://user@host:port, lab://NAME "
        "or simulated:NAME."
    )
