"""Channel to the machine that Innkeeper itself runs on."""

import os
import subprocess
from collections.abc import Sequence

from innkeeper.host.channel import CommandTimedOut
from innkeeper.host.commands import CommandChannel

NOT_EXECUTABLE = 127  # what a shell answers for a program that is not there


def execute_locally(
    argv: Sequence[str], data: bytes | None, timeout: float, program: str
) -> tuple[int, bytes, bytes]:
    """Run `argv` here for at most `timeout` seconds; `program` is its name in an error.

    The C locale keeps messages the same everywhere. A missing program is exit code 127.

    Raises:
        CommandTimedOut: it was killed because the time was up.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=data or b"",  # never our own terminal
            capture_output=True,
            check=False,
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise CommandTimedOut(f"{program} did not end within {timeout:.0f} s.") from error
    except (FileNotFoundError, PermissionError) as error:
        return NOT_EXECUTABLE, b"", str(error).encode()
    return done.returncode, done.stdout, done.stderr


class LocalChannel(CommandChannel):
    """Commands are child processes of this one, with its rights."""

    def execute(
        self, argv: Sequence[str], data: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run a child process: see `HostChannel.run`."""
        return execute_locally(argv, data, timeout, argv[0])
