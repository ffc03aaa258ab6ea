"""Supervisord of one home: its configuration, its socket, and what is left when it was killed."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from configparser import RawConfigParser
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import Fault, ServerProxy, Transport

import psutil

from innkeeper.stack.config import mark, socket_path, write_private
from innkeeper.stack.errors import CommandFailed
from innkeeper.stack.programs import Program

MARK = "INNKEEPER_STACK"  # in the environment of every process of a stack
RUNNING, STARTING = "RUNNING", "STARTING"
SPAWN_ERROR = 50  # of supervisor.xmlrpc.Faults: it has died, or could not be started
ANSWER_SECONDS = 15.0
TERM_SECONDS = 10.0


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=90)
        self._path = path

    def connect(self) -> None:
        if os.geteuid() not in {0, self._path.stat().st_uid}:
            raise PermissionError(f"{self._path} belongs to somebody else")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # where `close` looks for it
        return connection


class Supervisor:
    """The supervisord of one home; every call opens a connection, so none goes stale."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config_file = home / "supervisord.conf"
        self.socket = socket_path(home)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of supervisord's XML-RPC interface, as `supervisor.<method>`."""
        with ServerProxy("http://localhost", transport=_UnixTransport(self.socket)) as proxy:
            return getattr(cast("Any", proxy).supervisor, method)(*arguments)

    def alive(self) -> bool:
        """Tell whether this home's supervisord answers."""
        try:
            return bool(self.call("getIdentification") == mark(self.home))
        except (OSError, HTTPException, Fault):
            return False

    def states(self) -> dict[str, dict[str, Any]]:
        """Return supervisord's information about each program, by name."""
        return {info["name"]: info for info in self.call("getAllProcessInfo")}

    def apply(self, table: Iterable[Program]) -> set[str]:
        """Make supervisord know exactly these programs; those that changed are stopped.

        Starts supervisord when it does not run. Nothing is started but supervisord itself. Returns
        the programs that ran and have to be started again.
        """
        text = self._render(table)
        changed = not self.config_file.exists() or self.config_file.read_text() != text
        if changed:
            write_private(self.config_file, text)
        if not self.alive():
            self._launch()
        elif changed:
            return self._reload()
        return set()

    def start(self, name: str) -> None:
        """Start a program unless it runs; does not wait for it.

        One that has died already by the time of the answer is tried again by supervisord, like any
        that dies soon: whoever waits for it sees that.
        """
        if self.states()[name]["statename"] not in {RUNNING, STARTING}:
            try:
                self.call("startProcess", name, False)  # noqa: FBT003 - XML-RPC has no keywords
            except Fault as fault:
                if fault.faultCode != SPAWN_ERROR:
                    raise

    def stop(self, name: str) -> None:
        """Stop a program and wait until it is gone; fine when it does not run."""
        if self.states().get(name, {}).get("pid"):
            self.call("stopProcess", name, True)  # noqa: FBT003 - XML-RPC has no keywords

    def give_up(self, name: str) -> None:
        """Stop trying to start a program that keeps dying."""
        with suppress(Fault):  # it may not run at this moment
            self.call("stopProcess", name, True)  # noqa: FBT003 - XML-RPC has no keywords

    def log_file(self, name: str) -> Path:
        """Return where a program's output goes."""
        return self.home / "logs" / f"{name}.log"

    def forget(self) -> None:
        """Remove the configuration, which holds secrets and names programs that run no more."""
        self.config_file.unlink(missing_ok=True)
        if self.socket.parent != self.home / "run" and self.socket.parent.exists():
            self.socket.parent.rmdir()

    def log_tail(self, name: str, size: int = 1500) -> str:
        """Return the end of a program's log."""
        try:
            with self.log_file(name).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - size))
                return log.read().decode(errors="replace").strip()
        except OSError:
            return ""

    def shutdown(self) -> bool:
        """Stop every program in reverse order, then supervisord; return whether it ran."""
        if not self.alive():
            return False
        for name, _ in sorted(self.states().items(), key=lambda i: -self._priority(i[0])):
            self.stop(name)
        pid = int(self.call("getPID"))
        self.call("shutdown")
        _wait_gone([psutil.Process(pid)] if psutil.pid_exists(pid) else [], ANSWER_SECONDS)
        return True

    def sweep(self) -> list[str]:
        """End every process of this home that is not under a living supervisord.

        They are told by the mark in their environment. Returns their names.
        """
        if self.alive():
            return []
        left = leftovers(self.home)
        for process in left:
            # For PostgreSQL TERM means: wait for the clients. INT disconnects them.
            _send(process, signal.SIGINT if "postgres" in _name(process) else signal.SIGTERM)
        for process in _wait_gone(left, TERM_SECONDS):
            _send(process, signal.SIGKILL)
        _wait_gone(left, TERM_SECONDS)
        for path in (self.socket, self.home / "run" / "supervisord.pid"):
            path.unlink(missing_ok=True)
        return [_name(process) for process in left]

    def _priority(self, name: str) -> int:
        parser = RawConfigParser()
        parser.read(self.config_file)
        return parser.getint(f"program:{name}", "priority", fallback=0)

    def _launch(self) -> None:
        self.sweep()
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        if self.socket.parent.stat().st_uid != os.geteuid():
            raise CommandFailed(f"{self.socket.parent} belongs to somebody else; remove it.")
        # No secret of the caller goes further than what the programs' own entries say.
        keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME")
        environment = {k: v for k, v in os.environ.items() if k in keep} | {MARK: mark(self.home)}
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config_file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise CommandFailed(
                f"supervisord did not start: {(done.stderr or done.stdout).strip()[-400:]}"
            )
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.alive():
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"supervisord does not answer; see {self.home / 'logs' / 'supervisord.log'}"
                )
            time.sleep(0.05)

    def _reload(self) -> set[str]:
        ran = {name for name, information in self.states().items() if information["pid"]}
        added, changed, removed = self.call("reloadConfig")[0]
        for group in [*changed, *removed]:
            self.call("stopProcessGroup", group)
            self.call("removeProcessGroup", group)
        for group in [*added, *changed]:
            self.call("addProcessGroup", group)
        return ran & set(changed)

    def _render(self, table: Iterable[Program]) -> str:
        logs = self.home / "logs"
        parser = RawConfigParser()
        parser["unix_http_server"] = {"file": str(self.socket), "chmod": "0700"}
        parser["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        parser["supervisord"] = {
            "identifier": mark(self.home),
            "pidfile": str(self.home / "run" / "supervisord.pid"),
            "logfile": str(logs / "supervisord.log"),
            "logfile_maxbytes": "1MB",
            "logfile_backups": "1",
            "childlogdir": str(logs),
            "nocleanup": "true",
            "umask": "077",
            "directory": "/",
        }
        if os.geteuid() == 0:
            parser["supervisord"]["user"] = "root"  # says that this is on purpose
        for order, program in enumerate(table):
            parser[f"program:{program.name}"] = _section(program, logs, order)
        out = io.StringIO()
        out.write("; written by `innkeeper stack up`; holds secrets; changes are overwritten\n")
        parser.write(out)
        return out.getvalue()


def _section(program: Program, logs: Path, order: int) -> dict[str, str]:
    section = {
        "command": " ".join(_quoted(word) for word in program.argv),
        "directory": str(program.directory),
        "priority": str(order),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": "1",
        "startretries": "100",  # a database that is away for minutes must not end a worker
        "stopsignal": program.stop_signal,
        "stopwaitsecs": str(program.stop_seconds),
        # What a program started (Terraform, Ansible) ends with it, by KILL when it has to.
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": str(logs / f"{program.name}.log"),
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": "1",
        "environment": ",".join(
            f"{k}={_quoted(v)}" for k, v in sorted(program.environment.items())
        ),
    }
    if program.user:
        section["user"] = program.user
    return section


def _quoted(value: str) -> str:
    """Quote for supervisord, which splits like a shell and expands %(names)s."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def leftovers(home: Path) -> list[psutil.Process]:
    """Return the living processes that carry this home's mark, supervisord among them."""
    wanted = mark(home)
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get(MARK) == wanted and (process.status() != psutil.STATUS_ZOMBIE):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return str(process.pid)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until the processes ended; return those that did not."""
    deadline = time.monotonic() + seconds
    while left := [p for p in processes if _lives(p)]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
