"""PostgreSQL and Prefect under supervisord, in a home and on ports of their own."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import httpx
import psutil
import psycopg
import pytest

from benchmarks.ports import free_ports
from innkeeper.settings import Settings, settings
from innkeeper.stack import footprint, lifecycle, postgres
from innkeeper.stack.config import owns_database, read_stack
from innkeeper.stack.errors import PortTaken, ProgramDied
from innkeeper.stack.programs import POSTGRES, PREFECT, Program
from innkeeper.stack.supervisor import Supervisor, leftovers

ONLY = {POSTGRES, PREFECT}
pytestmark = pytest.mark.skipif(
    not list(postgres.INSTALLATIONS.glob("*/bin/initdb")), reason="PostgreSQL is not installed"
)


@pytest.fixture(scope="module")
def chosen() -> Iterator[Settings]:
    """Settings of a stack of its own; what it left is ended and deleted afterwards."""
    # Not pytest's folder: it is closed to the user that PostgreSQL runs as.
    home = Path(mkdtemp(prefix="innkeeper-stack-"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("INNKEEPER_HOME", str(home))
        for name, port in zip(("POSTGRES", "PREFECT", "API"), free_ports(3), strict=True):
            patch.setenv(f"INNKEEPER_{name}_PORT", str(port))
        settings.cache_clear()
        home.chmod(0o711)
        try:
            yield settings()
        finally:
            lifecycle.destroy(Settings())
            settings.cache_clear()
            shutil.rmtree(home)


@pytest.fixture
def running(chosen: Settings) -> Settings:
    lifecycle.up(chosen, only=ONLY)
    return settings()


@pytest.fixture
def database(chosen: Settings) -> Settings:
    lifecycle.up(chosen, only={POSTGRES})
    return settings()


def pids(chosen: Settings) -> dict[str, int]:
    return {s.name: s.pid for s in lifecycle.status(chosen) if s.name in ONLY}


def serves(chosen: Settings) -> bool:
    return httpx.get(f"{chosen.prefect_api_url}/health").status_code == httpx.codes.OK


def test_down_before_the_first_up(chosen: Settings) -> None:
    assert not lifecycle.down(chosen).was_running
    assert lifecycle.status(chosen) == []


def test_up_serves_and_settings_find_the_database(running: Settings) -> None:
    assert serves(running)
    assert running.database_url.startswith("postgresql+psycopg://innkeeper:")
    with psycopg.connect(running.database_url.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT current_user, current_setting('fsync'), inet_server_addr()::text"
        ).fetchone()
    assert row == ("innkeeper", "on", "127.0.0.1/32")
    config = read_stack(running.home)
    assert config is not None
    ours, prefects = config.database_url, config.prefect_database_url
    for url, waits in ((ours, "on"), (prefects, "off")):
        with psycopg.connect(re.sub(r"\+\w+", "", url, count=1)) as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == (waits,)


def test_the_passwords_are_private_and_in_no_process_list(running: Settings) -> None:
    config = read_stack(running.home)
    assert config is not None
    for name in ("stack.json", "supervisord.conf"):
        assert stat.S_IMODE((running.home / name).stat().st_mode) == 0o600
    words = " ".join(" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    logs = "".join(p.read_text(errors="replace") for p in (running.home / "logs").iterdir())
    for password in (config.postgres_password, config.innkeeper_password, config.prefect_password):
        assert password not in words
        assert password not in logs
    wrong = config.superuser_conninfo.replace(config.postgres_password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(wrong)


def test_a_second_up_changes_nothing(running: Settings) -> None:
    before = pids(running)
    lifecycle.up(running, only=ONLY)
    assert pids(running) == before
    assert all(before.values())


def test_a_killed_supervisord_is_healed(running: Settings) -> None:
    before = pids(running)
    supervisor = Supervisor(running.home)
    os.kill(int(supervisor.call("getPID")), signal.SIGKILL)
    while supervisor.alive():
        time.sleep(0.05)
    assert {p.pid for p in leftovers(running.home)} >= set(before.values())

    lifecycle.up(running, only=ONLY)

    assert serves(running)
    assert not set(pids(running).values()) & set(before.values())
    postmasters = [p for p in leftovers(running.home) if p.name() == "postgres"]
    assert len(postmasters) == 1


def test_down_sweeps_what_a_killed_supervisord_left(running: Settings) -> None:
    os.kill(int(Supervisor(running.home).call("getPID")), signal.SIGKILL)
    stopped = lifecycle.down(running)
    assert len(stopped.strays) >= 2
    assert_nothing_left(running)


def test_a_killed_program_comes_back_by_itself(running: Settings) -> None:
    before = pids(running)[PREFECT]
    os.kill(before, signal.SIGKILL)
    lifecycle.up(running, only=ONLY)
    assert serves(running)
    assert pids(running)[PREFECT] != before


def test_data_survives_down_and_a_lock_file_of_a_dead_server(database: Settings) -> None:
    config = read_stack(database.home)
    assert config is not None
    with psycopg.connect(database.database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE kept (x int)")
    lifecycle.down(database)
    # What a crash of the machine leaves: a lock file whose number belongs to somebody else now.
    lock = Path(config.postgres_data) / "postmaster.pid"
    lock.write_text(f"{os.getppid()}\n{config.postgres_data}\n")
    (database.home / "run" / "supervisord.pid").write_text(f"{os.getppid()}\n")
    lifecycle.up(database, only={POSTGRES})
    with psycopg.connect(database.database_url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_a_port_that_somebody_else_holds_is_named(database: Settings) -> None:
    lifecycle.down(database)
    with (
        socket.create_server(("127.0.0.1", database.postgres_port)),
        pytest.raises(PortTaken, match=rf"{database.postgres_port}.*pid {os.getpid()}.*_PORT"),
    ):
        lifecycle.up(database, only={POSTGRES})
    assert_nothing_left(database)


def test_a_program_that_dies_shows_its_log(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Program("worker", ["/bin/sh", "-c", "echo the reason; exit 3"])
    table = lifecycle.programs
    monkeypatch.setattr(
        lifecycle,
        "programs",
        lambda *a, **k: [broken if p.name == "worker" else p for p in table(*a, **k)],
    )
    with pytest.raises(ProgramDied, match="the reason"):
        lifecycle.up(chosen, only={"worker"})


def test_the_footprint_names_every_program(running: Settings) -> None:
    found = {usage.name: usage for usage in footprint.measure(running.home, 0.2)}
    assert set(found) == {"supervisord", *ONLY}
    assert all(usage.memory > 1 for usage in found.values())


def test_a_cluster_without_its_passwords_is_put_aside(database: Settings) -> None:
    config = read_stack(database.home)
    assert config is not None
    lifecycle.down(database)
    (database.home / "stack.json").unlink()
    settings.cache_clear()
    lifecycle.up(settings(), only={POSTGRES})
    data = Path(config.postgres_data)
    aside = list(data.parent.glob(f"{data.name}.aside-*"))
    assert len(aside) == 1
    shutil.rmtree(aside[0])


def test_an_external_database_is_not_run_here(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owns_database(chosen)
    monkeypatch.setenv("DATABASE_URL", "sqlite:////tmp/trial.db")
    trial = Settings()
    assert not owns_database(trial)
    assert POSTGRES not in lifecycle.ports(trial)


def test_down_leaves_nothing_and_may_be_repeated(database: Settings) -> None:
    assert lifecycle.down(database).was_running
    assert_nothing_left(database)
    assert not lifecycle.down(database).was_running


def assert_nothing_left(chosen: Settings) -> None:
    assert leftovers(chosen.home) == []
    data = json.loads((chosen.home / "stack.json").read_text())["postgres_data"]
    words = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    assert [w for w in words if any(str(chosen.home) in x or data in x for x in w)] == []
    assert list((chosen.home / "run").iterdir()) == []
    for port in lifecycle.ports(chosen).values():
        assert lifecycle.port_free(port)
