"""Channel to a host over SSH: one kept connection a host and process, host keys always verified.

The connections live on an event loop of their own in a thread of their own, so that callers in any
thread share them and nobody's event loop is blocked.
"""

import asyncio
import logging
import shlex
import threading
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from innkeeper.errors import HostUnreachable, PermanentError
from innkeeper.host.channel import CommandTimedOut
from innkeeper.host.commands import CommandChannel
from innkeeper.settings import settings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 15.0
SLACK_SECONDS = 5.0  # for the answer to travel back to the caller's thread

Result = TypeVar("Result")
_Running = tuple[asyncssh.SSHClientConnection, "asyncssh.SSHClientProcess[bytes]"]
_starting = threading.Lock()


class HostKeyUnknown(PermanentError):
    """A host showed an SSH key that is not in our known hosts."""

    slug = "host-key-unknown"
    title = "Host key unknown"


class HostLoginRefused(PermanentError):
    """A host does not accept our SSH key."""

    slug = "host-login-refused"
    title = "Host login refused"


class SshChannel(CommandChannel):
    """Commands over the kept connection to `user@host:port`."""

    def __init__(self, host: str, port: int, user: str) -> None:
        self.connection = _connection(host, port, user)

    def execute(
        self, argv: Sequence[str], data: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run over the connection: see `HostChannel.run`."""
        return self.connection.execute(argv, data, timeout)

    def close(self) -> None:
        """End the kept connection; the next command opens a new one."""
        self.connection.close()


class KeptConnection:
    """One connection, opened when needed and again when it broke."""

    def __init__(self, host: str, port: int, user: str) -> None:
        self.host, self.port, self.user = host, port, user
        self.open: asyncssh.SSHClientConnection | None = None
        self.opening = asyncio.Lock()
        self.commands: Counter[asyncssh.SSHClientConnection] = Counter()

    def execute(
        self, argv: Sequence[str], data: bytes | None, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Run a command: see `HostChannel.run`.

        Raises:
            HostKeyUnknown: the host's key is in none of our files of known hosts.
            HostLoginRefused: the host does not accept our key.
        """
        longest = timeout + 2 * CONNECT_SECONDS + SLACK_SECONDS
        return _on_loop(self._execute(argv, data, timeout), longest)

    def close(self) -> None:
        """Close the connection; fine when there is none."""
        _on_loop(self._close(), SLACK_SECONDS)

    async def _execute(
        self,
        argv: Sequence[str],
        data: bytes | None,
        timeout: float,  # noqa: ASYNC109
    ) -> tuple[int, bytes, bytes]:
        connection, process = await self._start(shlex.join(argv))
        try:
            async with asyncio.timeout(timeout):
                if data:
                    process.stdin.write(data)
                process.stdin.write_eof()  # also without input, or a reader would wait for it
                out, err = await process.communicate()
        except TimeoutError as error:
            with suppress(OSError):  # it may have ended just now
                process.terminate()
            raise CommandTimedOut(f"{argv[0]} did not end within {timeout:.0f} s.") from error
        except (OSError, asyncssh.Error) as error:
            raise HostUnreachable(f"Lost {self.host} while {argv[0]} ran: {error}") from error
        finally:
            process.close()
            self._ended(connection)
        if process.returncode is None:
            raise HostUnreachable(f"Lost {self.host} while {argv[0]} ran.")
        return process.returncode, _bytes(out), _bytes(err)

    async def _start(self, command: str) -> _Running:
        """Start the command; a kept connection that proves dead is replaced once.

        That repeats nothing: on a dead connection the command never started.
        """
        kept = self.open
        try:
            return await self._process(command)
        except (OSError, asyncssh.Error) as error:
            if kept is None:
                raise HostUnreachable(f"{self.host} does not answer over SSH: {error!r}") from error
        try:
            return await self._process(command)
        except (OSError, asyncssh.Error) as error:
            raise HostUnreachable(f"{self.host} does not answer over SSH: {error!r}") from error

    async def _process(self, command: str) -> _Running:
        connection = await self._connected()
        self.commands[connection] += 1
        try:
            return connection, await connection.create_process(command, encoding=None)
        except BaseException:
            if self.open is connection:  # else another caller has replaced it already
                self.open = None
            self._ended(connection)
            raise

    def _ended(self, connection: asyncssh.SSHClientConnection) -> None:
        """Note that a command has ended; with its last one goes a connection given up."""
        self.commands[connection] -= 1
        if not self.commands[connection]:
            del self.commands[connection]
            if connection is not self.open:
                connection.close()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self.opening:  # of many first callers one connects
            if self.open is None or self.open.is_closed():
                self.open = await self._connect()
            return self.open

    async def _connect(self) -> asyncssh.SSHClientConnection:
        own = settings().identity_file
        keys: dict[str, Any] = {"client_keys": [str(own)]} if own.exists() else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncssh.connect(
                    self.host,
                    self.port,
                    username=self.user,
                    known_hosts=asyncssh.import_known_hosts(known_hosts()),
                    keepalive_interval=KEEPALIVE_SECONDS,
                    **keys,
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise HostKeyUnknown(
                f"The SSH key of {self.host} is not known: compare it with what the host's console "
                f"shows, then add it to {settings().home / 'ssh' / 'known_hosts'}."
            ) from error
        except asyncssh.PermissionDenied as error:
            raise HostLoginRefused(
                f"{self.host} does not accept Innkeeper's key for {self.user}: add {own}.pub to "
                "that user's authorized_keys."
            ) from error

    async def _close(self) -> None:
        kept, self.open = self.open, None
        if kept is not None:
            kept.close()
            await kept.wait_closed()


def known_hosts() -> str:
    """Return our own known hosts and the user's, in the format of ssh; "" trusts nobody."""
    files = (settings().home / "ssh" / "known_hosts", Path.home() / ".ssh" / "known_hosts")
    return "\n".join(file.read_text() for file in files if file.exists())


@cache
def _connection(host: str, port: int, user: str) -> KeptConnection:
    return KeptConnection(host, port, user)


def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop that all connections live on, started with the first."""
    with _starting:  # a cache alone lets two first callers start one each
        return _started()


@cache
def _started() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ssh", daemon=True).start()
    return loop


def _on_loop(work: Coroutine[Any, Any, Result], seconds: float) -> Result:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result(seconds)


def _bytes(output: bytes | str | None) -> bytes:
    return output.encode() if isinstance(output, str) else output or b""
