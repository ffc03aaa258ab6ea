"""A Prefect server of the test session's own: its PostgreSQL, a free port, a temporary home."""

import asyncio
import inspect
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import certifi
import httpx
import prefect
import prefect.context
import prefect.settings
import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from benchmarks.ports import free_ports
from innkeeper import dispatch
from tests.conftest import Cluster

STARTUP_SECONDS = 90
_END = "-----END CERTIFICATE-----\n"


def _one_authority(home: Path) -> str:
    """Return a file with one certificate authority of the hundred.

    Prefect loads them for each client, also where no TLS is spoken: a tenth of a point's time.
    """
    first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition(_END)
    file = home / "authority.pem"
    file.write_text(first + end, encoding="utf-8")
    return str(file)


def _environment(home: Path, url: str, database: str) -> dict[str, str]:
    return {
        "PREFECT_API_SSL_CERT_FILE": _one_authority(home),
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "503",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "innkeeper,flows,tasks",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    }


def _await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()[-4000:]}")


def _start(home: Path, port: int) -> tuple[subprocess.Popen[bytes], Path]:
    log = home / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "--log-level", "warning"),
                *("--host", "127.0.0.1", "--port", str(port)),
                "prefect.server.api.server:create_app",
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=home,
        )
    return server, log


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


async def _drain() -> None:
    """Send what Prefect's log and event threads still hold while the server listens."""
    with suppress(RuntimeError):
        if inspect.isawaitable(logs := APILogWorker.instance().drain()):
            await logs
    if inspect.isawaitable(events := EventsWorker.drain_all()):
        await events


@contextmanager
def _prefect_settings(environment: dict[str, str]) -> Iterator[None]:
    """Lead Prefect in this process to the server, in threads of its own too."""
    values = {
        getattr(prefect.settings, name): value
        for name, value in environment.items()
        if hasattr(prefect.settings, name)
    }
    with (
        prefect.settings.temporary_settings(values),
        prefect.context._temporary_global_settings_context(prefect.context.get_settings_context()),
    ):
        yield


@pytest.fixture(scope="session")
def prefect_server(
    tmp_path_factory: pytest.TempPathFactory, postgres_cluster: Cluster
) -> Iterator[str]:
    """Run a Prefect server for the session and yield the URL of its API.

    Environment and settings of this process lead to it, so flows that a test calls, workers that it
    starts and `innkeeper.dispatch` all meet there. A module that needs it without its address says
    `pytestmark = pytest.mark.usefixtures("prefect_server")`.
    """
    home = tmp_path_factory.mktemp("prefect")
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}/api"
    name = f"prefect_{port}"
    postgres_cluster.create(name)
    environment = _environment(home, url, postgres_cluster.url(name, "asyncpg"))
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    server, log = _start(home, port)
    try:
        _await_health(url, server, log)
        with _prefect_settings(environment):
            yield url
            asyncio.run(_drain())
            dispatch.starter().close()
            dispatch._starter_for.cache_clear()
    finally:
        _stop(server)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(home, ignore_errors=True)
