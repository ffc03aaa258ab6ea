"""Migrations and models agree on both databases, and any number of processes may migrate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from innkeeper.db import migrate
from innkeeper.db.models import Base
from innkeeper.db.session import DatabaseUnavailable, engine, engine_for
from innkeeper.settings import settings


@pytest.mark.usefixtures("database")
def test_migrations_make_what_the_models_say() -> None:
    with engine().connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences == [], "write a migration: python -m innkeeper.db.migrate --new MESSAGE"


@pytest.mark.usefixtures("database")
def test_a_missing_migration_is_noticed() -> None:
    with engine().begin() as connection:
        connection.execute(text("DROP TABLE api_keys"))
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert differences


@pytest.mark.usefixtures("database")
def test_upgrade_is_repeatable_and_keeps_rows() -> None:
    with engine().begin() as connection:
        connection.execute(
            text("INSERT INTO plans VALUES ('00000000000000000000000000000001','p',1,1,1,0)")
        )
    revision = migrate.current()
    migrate.upgrade()
    assert migrate.current() == revision
    with engine().connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM plans")) == 1


@pytest.mark.usefixtures("database")
def test_downgrade_leaves_nothing() -> None:
    with engine().begin() as connection:
        command.downgrade(migrate._config(connection), "base")
    assert inspect(engine()).get_table_names() == ["alembic_version"]


def test_sqlite_keeps_its_references_guarded_after_a_migration(home: Path) -> None:
    migrate.upgrade()
    with engine().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_that_start_together_all_migrate(
    kind: str, home: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{home / 'innkeeper.db'}"
    if kind == "postgres":
        cluster = request.getfixturevalue("postgres_cluster")
        cluster.create("together")
        url = cluster.url("together")
    environment = {**os.environ, "DATABASE_URL": url, "INNKEEPER_HOME": str(home)}
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "innkeeper.db.migrate"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(3)
    ]
    outputs = [(run.communicate(timeout=60)[0], run.returncode) for run in runs]
    assert all(code == 0 for _, code in outputs), outputs
    assert migrate.current(url) is not None
    engine_for(url).dispose()


def test_a_database_that_is_down_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    settings.cache_clear()
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        migrate.upgrade()
