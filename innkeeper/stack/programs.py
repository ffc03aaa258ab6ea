"""The programs of the stack: one entry a program, in the order in which they start."""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from innkeeper.settings import Settings
from innkeeper.stack import postgres
from innkeeper.stack.config import StackConfig

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = ("innkeeper", "flows", "tasks")  # packages whose change restarts the programs that run them

SQLITE_WORKER_LIMIT = "4"
POSTGRES, PREFECT, WORKER, API, LISTENER = "postgres", "prefect", "worker", "api", "listener"
ALL = (POSTGRES, PREFECT, WORKER, API, LISTENER)


@dataclass(frozen=True)
class Program:
    """How supervisord runs one program. `health_url` answers 200 when it serves."""

    name: str
    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    directory: Path = CHECKOUT
    port: int | None = None
    health_url: str | None = None
    ready: Callable[[], bool] | None = None
    stop_signal: str = "TERM"
    stop_seconds: int = 20
    start_seconds: float = 120.0


def programs(chosen: Settings, config: StackConfig, *, own_database: bool) -> list[Program]:
    """Return the table for these settings, without what is served from elsewhere.

    DATABASE_URL and PREFECT_API_URL name a database and a Prefect server that are not ours to run.
    """
    table = [_worker(chosen), _api(chosen), _listener(chosen)]
    if chosen.prefect_api_url == f"http://{chosen.bind}:{chosen.prefect_port}/api":
        table.insert(0, _prefect(chosen, config, own_database=own_database))
    if own_database:
        table.insert(0, _postgres(config))
    return table


def _postgres(config: StackConfig) -> Program:
    return Program(
        POSTGRES,
        postgres.command(config),
        user=postgres.run_as(),
        directory=Path("/"),
        port=config.postgres_port,
        ready=lambda: postgres.answers(config),
        stop_signal="INT",  # fast: disconnect clients, no recovery needed
        stop_seconds=60,
        environment={"LC_ALL": "C.UTF-8"},
    )


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _lean() -> dict[str, str]:
    """Return settings of the C library that keep an idle Python small."""
    return {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "131072"}


def _prefect(chosen: Settings, config: StackConfig, *, own_database: bool) -> Program:
    home = chosen.home / "prefect"
    # The app itself under uvicorn: `prefect server start` would keep a second Python beside it.
    argv = ["-m", "uvicorn", "--factory", "deployments.prefect_server:create_app"]
    argv += ["--host", chosen.bind, "--port", str(chosen.prefect_port)]
    argv += ["--timeout-keep-alive", "30", "--log-level", "warning", "--no-access-log"]
    if own_database:
        database = config.prefect_database_url
    else:
        database = f"sqlite+aiosqlite:///{home / 'prefect.db'}"
    return Program(
        PREFECT,
        _python(*argv),
        environment={
            **_lean(),
            **prefect_client_environment(chosen),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT__SERVER_FINAL": "1",
            **prefect_server_tuning(),
        },
        port=chosen.prefect_port,
        health_url=f"http://{chosen.bind}:{chosen.prefect_port}/api/health",
        stop_seconds=30,
    )


def prefect_client_environment(chosen: Settings) -> dict[str, str]:
    """Return what any process that speaks to this stack's Prefect needs in its environment."""
    return {
        "PREFECT_HOME": str(chosen.home / "prefect"),
        "PREFECT_API_URL": chosen.prefect_api_url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # SQLite answers 503 while it is locked; with PostgreSQL it heals a restart of the server.
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "503",
    }


def prefect_server_tuning() -> dict[str, str]:
    """Return settings that make an idle server cheap; each loop still is far below what we need."""
    return {
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "30",
        "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
        "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "30",
        "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "30",
        "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
        # Prefect keeps an hour of every schedule written down, and writes it again each minute.
        "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "10",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT5M",
        # Prefect writes each state of a task run down by itself, which is a third of all that its
        # server does. Fifty at once, or those of a second, cost a fraction, and skip what is past.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # Connections beyond the pool are made anew for every burst.
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "15",
        # Runs of every minute would fill the disk: forget them, our own audit trail does not.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 86400),
    }


def _innkeeper_environment(chosen: Settings) -> dict[str, str]:
    environment = {
        **_lean(),
        **prefect_client_environment(chosen),
        "INNKEEPER_HOME": str(chosen.home),
        "INNKEEPER_CACHE": str(chosen.cache),
        "INNKEEPER_BUILD": build_mark(),
    }
    # A setting given to `stack up` holds for the programs too.
    for name in (
        "INNKEEPER_SECRET_KEY",
        *(f"INNKEEPER_{f.upper()}" for f in Settings.model_fields),
    ):
        if value := os.environ.get(name):
            environment.setdefault(name, value)
    return environment


def _worker(chosen: Settings) -> Program:
    environment = _innkeeper_environment(chosen)
    if chosen.database_url.startswith("sqlite"):
        # Prefect is on SQLite too, then, and ends in HTTP 503 under more than a few runs at once.
        environment.setdefault("INNKEEPER_WORKER_LIMIT", SQLITE_WORKER_LIMIT)
    return Program(
        WORKER,
        _python("-m", "innkeeper.worker"),
        environment=environment,
        stop_seconds=30,
    )


def _api(chosen: Settings) -> Program:
    argv = ["-m", "uvicorn", "--factory", "innkeeper.api.app:create_app"]
    argv += ["--host", chosen.bind, "--port", str(chosen.api_port)]
    argv += ["--timeout-keep-alive", "30", "--timeout-graceful-shutdown", "5"]
    argv += ["--log-level", "warning", "--no-access-log"]
    return Program(
        API,
        _python(*argv),
        environment=_innkeeper_environment(chosen),
        port=chosen.api_port,
        health_url=f"http://{chosen.bind}:{chosen.api_port}/api/v1/health",
    )


def _listener(chosen: Settings) -> Program:
    return Program(
        LISTENER,
        _python("-m", "innkeeper.listener"),
        environment=_innkeeper_environment(chosen),
    )


def build_mark() -> str:
    """Return a short mark of the code on disk; a new one makes `up` restart our programs."""
    digest = hashlib.sha256()
    for package in OURS:
        for file in sorted((CHECKOUT / package).rglob("*.py")):
            about = file.stat()
            digest.update(f"{file} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
