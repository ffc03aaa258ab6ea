"""Start, stop and look at the stack. Every step may be repeated; each ends in the same place."""

import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from filelock import FileLock

from innkeeper.settings import Settings, settings
from innkeeper.stack import postgres
from innkeeper.stack.config import StackConfig, ensure_stack, owns_database, read_stack
from innkeeper.stack.errors import PortTaken, ProgramDied, ProgramNotReady
from innkeeper.stack.programs import (
    ALL,
    API,
    LISTENER,
    POSTGRES,
    PREFECT,
    WORKER,
    Program,
    programs,
)
from innkeeper.stack.progress import Progress, silent, step
from innkeeper.stack.supervisor import RUNNING, STARTING, Supervisor

POLL_SECONDS = 0.1
STARTS_ALLOWED = 3  # a program that was started more often than this in one wait is broken
LOCK_SECONDS = 300.0
ENVIRONMENT_OF_PORT = {
    "postgres": "INNKEEPER_POSTGRES_PORT",
    "prefect": "INNKEEPER_PREFECT_PORT",
    "api": "INNKEEPER_API_PORT",
}
Hook = Callable[[Settings], str]
"""Called with the settings; returns what its progress line shall say."""


@dataclass(frozen=True)
class Hooks:
    """What belongs between the programs: the schema after PostgreSQL, deployments after Prefect."""

    migrate: Hook | None = None
    deploy: Hook | None = None


@dataclass(frozen=True)
class ProgramStatus:
    """One program as it is now; `uptime` in seconds, `address` where it serves."""

    name: str
    state: str
    healthy: bool
    pid: int = 0
    uptime: int = 0
    address: str = ""


@dataclass(frozen=True)
class Stopped:
    """What `down` ended: programs that were running, and strays of a killed supervisord."""

    was_running: bool
    strays: list[str] = field(default_factory=list)


def up(
    chosen: Settings | None = None,
    *,
    only: Collection[str] = ALL,
    progress: Progress = silent,
    hooks: Hooks | None = None,
) -> StackConfig:
    """Bring the named programs up in order; return when every one of them serves.

    A second call with nothing changed starts nothing. Changed programs are restarted, and what a
    killed supervisord left behind is swept first. Raises PortTaken, ProgramDied, ProgramNotReady,
    PostgresMissing, CommandFailed.
    """
    chosen = chosen or settings()
    chosen.home.mkdir(parents=True, exist_ok=True)
    with FileLock(chosen.home / "stack.lock", timeout=LOCK_SECONDS):
        own_database = owns_database(chosen)
        config = ensure_stack(chosen)
        settings.cache_clear()  # the database's address is in stack.json from now on
        chosen = chosen.model_copy(update={"database_url": config.database_url})
        table = {p.name: p for p in programs(chosen, config, own_database=own_database)}
        wanted = {name: program for name, program in table.items() if name in only}
        supervisor = Supervisor(chosen.home)
        if POSTGRES in wanted:
            _make_cluster(config, progress)
        _refuse_taken_ports(supervisor, wanted.values())
        for name in supervisor.apply(table.values()):
            wanted[name] = table[name]  # ran, was changed, and shall run on
        _start_in_order(_Start(supervisor, wanted, progress), chosen, config, hooks or Hooks())
    return config


def _make_cluster(config: StackConfig, progress: Progress) -> None:
    if not (Path(config.postgres_data) / "PG_VERSION").exists():
        with step(progress, "cluster", "making the PostgreSQL cluster") as now:
            postgres.ensure_cluster(config)
            now.text = f"PostgreSQL data in {config.postgres_data}"
    else:
        postgres.ensure_cluster(config)


@dataclass(frozen=True)
class _Start:
    """The programs that one call starts, under their supervisord."""

    supervisor: Supervisor
    wanted: dict[str, Program]
    progress: Progress

    def launch(self, *names: str) -> None:
        for name in names:
            if name in self.wanted:
                self.supervisor.start(name)

    def wait(self, *names: str) -> None:
        for name in names:
            if program := self.wanted.get(name):
                with step(self.progress, name, "starting") as now:
                    _wait_healthy(self.supervisor, program)
                    now.text = f"serves {address(program)}".strip() if program.port else "runs"


def _start_in_order(start: _Start, chosen: Settings, config: StackConfig, hooks: Hooks) -> None:
    start.launch(POSTGRES)
    start.wait(POSTGRES)
    if POSTGRES in start.wanted:
        postgres.ensure_databases(config)
    start.launch(PREFECT)  # makes its own schema while ours is migrated
    if hooks.migrate:
        with step(start.progress, "schema", "migrating the database") as now:
            now.text = hooks.migrate(chosen)
    start.launch(API, LISTENER)
    start.wait(PREFECT)
    if hooks.deploy:
        with step(start.progress, "flows", "deploying the flows") as now:
            now.text = hooks.deploy(chosen)
    start.launch(WORKER)
    start.wait(API, LISTENER, WORKER)


def address(program: Program) -> str:
    """Return where a program serves, for people."""
    if program.health_url:
        return program.health_url.removesuffix("/health").removesuffix("/v1").removesuffix("/api")
    return f"port {program.port}" if program.port else ""


def _healthy(program: Program, information: dict[str, Any]) -> bool:
    if information.get("statename") not in {RUNNING, STARTING}:
        return False
    if program.ready:
        return program.ready()
    if program.health_url:
        try:
            return httpx.get(program.health_url, timeout=2.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
    return bool(information["statename"] == RUNNING)


def _wait_healthy(supervisor: Supervisor, program: Program) -> None:
    deadline = time.monotonic() + program.start_seconds
    starts = set()
    while True:
        information = supervisor.states()[program.name]
        if _healthy(program, information):
            return
        starts.add(information["start"])
        if information["statename"] == "FATAL" or len(starts) > STARTS_ALLOWED:
            supervisor.give_up(program.name)
            raise ProgramDied(
                f"{program.name} ended while it was starting; the end of its log "
                f"({supervisor.log_file(program.name)}):\n{supervisor.log_tail(program.name)}"
            )
        if time.monotonic() > deadline:
            raise ProgramNotReady(
                f"{program.name} is {information['statename']} but did not answer within "
                f"{program.start_seconds:.0f} s; see {supervisor.log_file(program.name)}"
            )
        time.sleep(POLL_SECONDS)


def _refuse_taken_ports(supervisor: Supervisor, wanted: Iterable[Program]) -> None:
    """Raise PortTaken when somebody else listens on a port of a program that does not run yet."""
    if supervisor.alive():
        pids = {name: information["pid"] for name, information in supervisor.states().items()}
    else:
        supervisor.sweep()  # what a killed supervisord left would hold our own ports
        pids = {}
    for program in wanted:
        if program.port and not pids.get(program.name) and not port_free(program.port):
            raise PortTaken(
                f"Port {program.port} on 127.0.0.1 is needed by {program.name} but taken by "
                f"{listener_on(program.port)}; end it, or set {ENVIRONMENT_OF_PORT[program.name]} "
                "to a free port."
            )


def ports(chosen: Settings) -> dict[str, int]:
    """Return the ports that this stack's programs listen on, by program."""
    wanted = {PREFECT: chosen.prefect_port, API: chosen.api_port}
    return {POSTGRES: chosen.postgres_port, **wanted} if owns_database(chosen) else wanted


def port_free(port: int, bind: str = "127.0.0.1") -> bool:
    """Tell whether a program of ours could listen on this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError:
            return False
    return True


def listener_on(port: int) -> str:
    """Return name and pid of the process that listens on a port, as far as it can be seen."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                if not connection.pid:
                    break
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another program"


def down(chosen: Settings | None = None) -> Stopped:
    """Stop every program and supervisord; data stays. Fine when nothing runs."""
    chosen = chosen or settings()
    if not chosen.home.exists():
        return Stopped(was_running=False)
    with FileLock(chosen.home / "stack.lock", timeout=LOCK_SECONDS):
        supervisor = Supervisor(chosen.home)
        was_running = supervisor.shutdown()
        strays = supervisor.sweep()
        supervisor.forget()
        return Stopped(was_running=was_running, strays=strays)


def destroy(chosen: Settings | None = None) -> list[Path]:
    """Stop the stack and delete its databases; return what was deleted. There is no way back."""
    chosen = chosen or settings()
    down(chosen)
    config = read_stack(chosen.home)
    # The key and the note are about rows of the databases, so they go with them.
    doomed = [chosen.home / name for name in ("prefect", "logs", "admin.key", "deployed.json")]
    if config:
        doomed += [Path(config.postgres_data), chosen.home / "stack.json"]
    gone = [path for path in doomed if path.exists()]
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    settings.cache_clear()
    return gone


def status(chosen: Settings | None = None) -> list[ProgramStatus]:
    """Return every program as it is now; health is asked of the program itself."""
    chosen = chosen or settings()
    config = read_stack(chosen.home)
    if config is None:
        return []
    supervisor = Supervisor(chosen.home)
    states = supervisor.states() if supervisor.alive() else {}
    table = programs(chosen, config, own_database=owns_database(chosen))
    return [_status_of(program, states.get(program.name, {})) for program in table]


def _status_of(program: Program, information: dict[str, Any]) -> ProgramStatus:
    pid = int(information.get("pid", 0))
    return ProgramStatus(
        name=program.name,
        state=str(information.get("statename", "STOPPED")).lower(),
        healthy=_healthy(program, information),
        pid=pid,
        uptime=int(information["now"] - information["start"]) if pid else 0,
        address=address(program),
    )
