import asyncio
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import asyncssh
import pytest

from innkeeper.errors import HostUnreachable, InvalidRequest, NotFound
from innkeeper.host.channel import CommandFailed, CommandTimedOut, HostChannel, open_channel
from innkeeper.host.ssh import HostKeyUnknown, HostLoginRefused, SshChannel
from innkeeper.host.whole import replace_file
from innkeeper.settings import settings


class SshHost:
    """A host behind a real SSH server, which runs commands as child processes of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.logins = 0
        self.connections: set[asyncssh.SSHServerConnection] = set()
        self.commands: set[subprocess.Popen[bytes]] = set()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def start(self) -> None:
        host = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self.connection = conn
                host.connections.add(conn)

            def auth_completed(self) -> None:
                host.logins += 1

            def connection_lost(self, exc: Exception | None) -> None:
                del exc
                host.connections.discard(self.connection)

        async def listen() -> asyncssh.SSHAcceptor:
            return await asyncssh.listen(
                "127.0.0.1",
                self.port,
                server_factory=Server,
                server_host_keys=[self.key],
                authorized_client_keys=str(self.folder / "authorized_keys"),
                process_factory=self.serve,
                encoding=None,
            )

        self.acceptor = self.wait(listen())
        self.port = self.acceptor.get_port()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def serve(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        data = await process.stdin.read()
        # A thread waits for the child: on a loop that closes soon, asyncio never would.
        done = await asyncio.to_thread(self.execute, process.command or "false", data)
        process.stdout.write(done.stdout)
        process.stderr.write(done.stderr)
        process.exit(done.returncode)

    def execute(self, command: str, data: bytes) -> "subprocess.CompletedProcess[bytes]":
        pipe = subprocess.PIPE
        argv = ["sh", "-c", command]
        with subprocess.Popen(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        ) as child:
            self.commands.add(child)
            out, err = child.communicate(data)
            self.commands.remove(child)
        return subprocess.CompletedProcess(argv, child.returncode, out, err)

    def eventually(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def cut(self) -> None:
        """Break every connection, as a firewall or a restart does."""

        async def abort() -> None:
            broken = list(self.connections)
            for connection in broken:
                connection.abort()
            for connection in broken:
                await connection.wait_closed()

        self.wait(abort())

    def stop(self) -> None:
        async def end() -> None:
            self.acceptor.close()
            await self.acceptor.wait_closed()

        self.wait(end())
        self.cut()

    def close(self) -> None:
        """End everything that runs here, and return when it has ended."""

        async def end_commands() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            for child in list(self.commands):
                with suppress(ProcessLookupError):  # it may have ended just now
                    os.killpg(child.pid, signal.SIGKILL)  # what the shell started, too
            await asyncio.gather(*left, return_exceptions=True)
            await self.loop.shutdown_default_executor()

        self.stop()
        self.wait(end_commands())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def trust(host: SshHost, key: asyncssh.SSHKey) -> None:
    line = f"[127.0.0.1]:{host.port} {key.export_public_key().decode()}"
    replace_file(settings().home / "ssh" / "known_hosts", line.encode())


@pytest.fixture
def ssh_host(home: Path, tmp_path: Path) -> Iterator[SshHost]:
    """A host that trusts this home's identity and is trusted by it."""
    identity = asyncssh.generate_private_key("ssh-ed25519")
    replace_file(settings().identity_file, identity.export_private_key())
    (tmp_path / "authorized_keys").write_bytes(identity.export_public_key())
    host = SshHost(tmp_path)
    host.start()
    trust(host, host.key)
    yield host
    host.close()


@pytest.fixture(params=["local", "ssh"])
def channel(request: pytest.FixtureRequest, home: Path) -> Iterator[HostChannel]:
    """Every kind of channel that runs real commands without a lab."""
    if request.param == "local":
        yield open_channel("local:")
        return
    host: SshHost = request.getfixturevalue("ssh_host")
    opened = open_channel(f"ssh://root@127.0.0.1:{host.port}")
    assert isinstance(opened, SshChannel)
    yield opened
    opened.close()


def test_runs_a_list_and_never_a_shell_line(channel: HostChannel) -> None:
    awkward = "a b; echo $HOME 'quoted' \"twice\" *"
    result = channel.run(["printf", "%s", awkward]).check()
    assert result.stdout == awkward
    assert result.returncode == 0


def test_hands_input_over(channel: HostChannel) -> None:
    assert channel.run(["cat"], input="grüße").check().stdout == "grüße"
    assert channel.run(["wc", "-c"], input=b"\0\xff").check().stdout.strip() == "2"
    assert channel.run(["cat"]).check().stdout == ""


def test_reports_failure_without_arguments(channel: HostChannel) -> None:
    result = channel.run(["ls", "/nowhere/secret"])
    assert result.returncode == 2
    with pytest.raises(CommandFailed, match="ls ended with code 2"):
        result.check()
    missing = channel.run(["no-such-program", "secret-argument"])
    with pytest.raises(CommandFailed) as caught:
        missing.check()
    assert "127" in str(caught.value)
    assert "secret-argument" not in str(caught.value)


def test_ends_a_command_that_takes_too_long(channel: HostChannel) -> None:
    with pytest.raises(CommandTimedOut, match="sleep"):
        channel.run(["sleep", "20"], timeout=0.3)
    assert channel.run(["echo", "still here"]).stdout == "still here\n"


def test_replaces_files_whole_and_with_their_mode(channel: HostChannel, tmp_path: Path) -> None:
    target = tmp_path / "rules with space.json"
    data = bytes(range(256)) * 4096
    channel.write_file(str(target), data, mode=0o640)
    assert channel.read_file(str(target)) == data
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    channel.write_file(str(target), "short")
    assert target.read_text() == "short"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".rules*")) == []
    channel.remove_file(str(target))
    channel.remove_file(str(target))
    with pytest.raises(NotFound, match="rules with space"):
        channel.read_file(str(target))


def test_leaves_nothing_behind_when_a_file_cannot_be_replaced(
    channel: HostChannel, tmp_path: Path
) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)
    with pytest.raises(CommandFailed):
        channel.write_file(str(tmp_path / "taken"), b"data")
    assert list(tmp_path.glob(".taken*")) == []


def test_keeps_one_connection_for_many_threads(ssh_host: SshHost) -> None:
    address = f"ssh://root@127.0.0.1:{ssh_host.port}"

    def ask(number: int) -> str:
        return open_channel(address).run(["echo", str(number)]).check().stdout.strip()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(16))) == [str(n) for n in range(16)]
    assert ssh_host.logins == 1
    opened = open_channel(address)
    assert isinstance(opened, SshChannel)
    opened.close()


def test_connects_again_after_the_host_restarted(ssh_host: SshHost) -> None:
    opened = SshChannel("127.0.0.1", ssh_host.port, "root")
    opened.run(["true"]).check()
    ssh_host.stop()
    with pytest.raises(HostUnreachable, match=r"127\.0\.0\.1"):
        opened.run(["true"])
    ssh_host.start()
    opened.run(["true"]).check()
    ssh_host.cut()
    opened.run(["true"]).check()
    assert ssh_host.logins == 3
    opened.close()


class Dead:
    """A kept connection that has not noticed yet, and tells each caller after another time."""

    def __init__(self) -> None:
        self.callers = 0
        self.closed = 0

    def is_closed(self) -> bool:
        return False

    async def create_process(self, *_: Any, **__: Any) -> None:
        self.callers += 1
        await asyncio.sleep(0.1 if self.callers == 1 else 0.6)
        raise asyncssh.ConnectionLost("gone")

    def close(self) -> None:
        self.closed += 1


def test_callers_that_lose_the_same_connection_open_one_new(ssh_host: SshHost) -> None:
    opened = SshChannel("127.0.0.1", ssh_host.port, "root")
    dead = Dead()
    opened.connection.open = cast("asyncssh.SSHClientConnection", dead)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: opened.run(["true"]), range(4)))
    assert [result.returncode for result in results] == [0] * 4
    assert (dead.callers, dead.closed) == (4, 1)
    assert ssh_host.logins == 1
    opened.close()


def test_a_connection_that_takes_no_more_ends_with_its_last_command(
    ssh_host: SshHost, tmp_path: Path
) -> None:
    opened = SshChannel("127.0.0.1", ssh_host.port, "root")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(opened.run, ["cat", str(fifo)])
        with fifo.open("w") as end:  # blocks until the command runs
            full = opened.connection.open
            assert full is not None
            full.create_process = AsyncMock(  # type: ignore[method-assign]
                side_effect=asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "full")
            )
            opened.run(["true"]).check()
            assert len(ssh_host.connections) == 2
            end.write("whole")
        assert long.result(10).stdout == "whole"
    ssh_host.eventually(lambda: len(ssh_host.connections) == 1)
    opened.close()


def test_refuses_a_host_whose_key_is_not_known(ssh_host: SshHost) -> None:
    trust(ssh_host, asyncssh.generate_private_key("ssh-ed25519"))
    opened = SshChannel("127.0.0.1", ssh_host.port, "root")
    with pytest.raises(HostKeyUnknown, match="known_hosts"):
        opened.run(["true"])
    (settings().home / "ssh" / "known_hosts").unlink()
    with pytest.raises(HostKeyUnknown):
        opened.run(["true"])
    assert ssh_host.logins == 0


def test_says_where_to_put_our_key_when_it_is_refused(ssh_host: SshHost) -> None:
    stranger = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
    (ssh_host.folder / "authorized_keys").write_bytes(stranger)
    with pytest.raises(HostLoginRefused, match="authorized_keys"):
        SshChannel("127.0.0.1", ssh_host.port, "root").run(["true"])


def test_simulated_host_keeps_files_in_its_folder(home: Path) -> None:
    simulated = open_channel("simulated:alpha")
    simulated.write_file("/etc/innkeeper/x", "data")
    assert simulated.read_file("/etc/innkeeper/x") == b"data"
    assert (home / "simulated" / "alpha" / "files" / "etc" / "innkeeper" / "x").exists()
    with pytest.raises(NotFound):
        open_channel("simulated:beta").read_file("/etc/innkeeper/x")
    simulated.remove_file("/etc/innkeeper/x")
    simulated.remove_file("/etc/innkeeper/x")
    assert simulated.run(["systemctl", "restart", "x"]).returncode == 0


def test_a_lab_host_that_is_not_up_is_unreachable(home: Path) -> None:
    with pytest.raises(HostUnreachable, match="innkeeper lab up"):
        open_channel("lab://lab1").run(["true"])


@pytest.mark.parametrize("address", ["", "lab1", "lab:", "local://here", "ssh://", "telnet://x"])
def test_refuses_other_addresses(address: str) -> None:
    with pytest.raises(InvalidRequest, match="host channel"):
        open_channel(address)
