"""File operations made of commands, for channels that can only run something.

SFTP may be switched off on a host and a lab host's files live in its own mount namespace, but both
run coreutils, so one implementation serves all real channels.
"""

import posixpath
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence

from innkeeper.errors import NotFound
from innkeeper.host.channel import CommandResult

FILE_SECONDS = 60.0


class CommandChannel(ABC):
    """A channel whose file operations are coreutils calls over its own `execute`."""

    @abstractmethod
    def execute(
        self, argv: Sequence[str], data: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run `argv` with `data` on its input; return exit code, output and error output."""

    def run(
        self,
        argv: Sequence[str],
        input: str | bytes | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float = 30.0,
    ) -> CommandResult:
        """Run a command on the host: see `HostChannel.run`."""
        data = input.encode() if isinstance(input, str) else input
        code, out, err = self.execute(argv, data, timeout)
        return CommandResult(
            tuple(argv), code, out.decode(errors="replace"), err.decode(errors="replace")
        )

    def write_file(self, path: str, data: str | bytes, mode: int = 0o600) -> None:
        """Write beside the target, then rename over it: see `HostChannel.write_file`."""
        fresh = posixpath.join(
            posixpath.dirname(path), f".{posixpath.basename(path)}.{secrets.token_hex(4)}"
        )
        try:
            # install makes the file with its mode before there is anything to read in it
            self.run(["install", "-m", f"{mode:o}", "-T", "/dev/null", fresh]).check()
            self.run(
                ["dd", f"of={fresh}", "conv=notrunc", "status=none"], data, FILE_SECONDS
            ).check()
            self.run(["mv", "-f", "-T", fresh, path]).check()
        except BaseException:
            self.run(["rm", "-f", "--", fresh])
            raise

    def read_file(self, path: str) -> bytes:
        """Return the file's bytes: see `HostChannel.read_file`."""
        code, out, err = self.execute(["cat", "--", path], None, FILE_SECONDS)
        if code != 0:
            reason = err.decode(errors="replace").strip()
            raise NotFound(f"'{path}' cannot be read on the host: {reason}")
        return out

    def remove_file(self, path: str) -> None:
        """Remove a file: see `HostChannel.remove_file`."""
        self.run(["rm", "-f", "--", path]).check()
