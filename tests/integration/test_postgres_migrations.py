"""Migrations and models agree on both databases, and any number of processes may migrate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from conftest import Catalogue
from sqlalchemy import inspect, select, text

from innkeeper.db import migrate
from innkeeper.db.models import Address, Base, Disk, Host, Network, Nic, Server, ShelfFile
from innkeeper.db.session import DatabaseUnavailable, engine, engine_for, transaction
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


@pytest.mark.usefixtures("database")
def test_servers_survive_the_way_down_to_one_card_and_up_again(catalogue: Catalogue) -> None:
    view = catalogue.create("web")
    with transaction() as session:
        server = session.get_one(Server, view.server_id)
        assert server.host_id
        near = Network(
            project_id=server.project_id,
            host_id=server.host_id,
            name="near",
            bridge="ik-near",
            cidr="10.99.0.0/24",
            kind="isolated",
            label="near",
        )
        session.add(near)
        session.flush()
        cards = [
            Nic(
                server_id=server.id,
                network_id=on,
                mac=f"52:54:00:00:00:0{n}",
                name=name,
                position=n,
            )
            for n, (name, on) in enumerate({"near": near.id, "lan": None}.items(), 1)
        ]
        session.add_all(cards)
        session.flush()
        session.add(Address(network_id=near.id, nic_id=cards[0].id, ip="10.99.0.10"))
    with migrate._migrating(settings().database_url) as connection:
        command.downgrade(migrate._config(connection), "0010")
    migrate.upgrade()
    with transaction() as session:
        assert [nic.name for nic in session.scalars(select(Nic))] == ["primary"]
        assert [network.kind for network in session.scalars(select(Network))] == ["project"]
        server = session.get_one(Server, view.server_id)
        assert (server.cpu, server.pending, server.pending_vcpus) == ({}, None, 0)
        hosts = session.scalars(select(Host)).all()
        assert all((host.bridges, host.limits_bandwidth) == ([], False) for host in hosts)


@pytest.mark.usefixtures("database")
def test_files_on_a_shelf_of_root_disks_say_so_after_an_upgrade(catalogue: Catalogue) -> None:
    view = catalogue.create("web")
    with transaction() as session:
        root = session.scalars(select(Disk.volume).where(Disk.server_id == view.server_id)).one()
        kept = ShelfFile(server_id=view.server_id, volume=root, name="before", size_bytes=7)
        session.add(kept)
    with migrate._migrating(settings().database_url) as connection:
        command.downgrade(migrate._config(connection), "0013")
    migrate.upgrade()
    with transaction() as session:
        row = session.get_one(ShelfFile, (view.server_id, root))
        assert (row.name, row.size_bytes, row.unpacked_bytes) == ("before", 7, None)


@pytest.mark.usefixtures("database")
def test_the_way_down_is_refused_while_the_shelf_has_more_than_it_could_tell(
    catalogue: Catalogue,
) -> None:
    view, revision = catalogue.create("web"), migrate.current()
    with transaction() as session:
        for name in ("root", "data"):
            kept = ShelfFile(server_id=view.server_id, volume=name, name=f"{name}.z", size_bytes=7)
            session.add(kept)
    with (
        pytest.raises(CommandError, match=r"and web have more, .*: unshelve them"),
        migrate._migrating(settings().database_url) as connection,
    ):
        command.downgrade(migrate._config(connection), "0010")
    assert migrate.current() == revision
    with transaction() as session:
        assert {row.volume for row in session.scalars(select(ShelfFile))} == {"root", "data"}


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
