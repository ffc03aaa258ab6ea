"""Transactions and the lock that all processes share, on both databases."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Catalogue, Race
from sqlalchemy import text

from innkeeper.db import session as sessions
from innkeeper.db.models import Plan
from innkeeper.db.session import (
    DatabaseUnavailable,
    engine,
    engine_for,
    exclusive,
    transaction,
)
from innkeeper.errors import TransientError
from innkeeper.settings import settings


def test_threads_that_come_first_share_one_engine(
    database: str, race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, make = [], sessions.create_engine

    def slowly(*args: Any, **options: Any) -> Any:
        made.append(make(*args, **options))
        time.sleep(0.05)
        return made[-1]

    monkeypatch.setattr(sessions, "create_engine", slowly)
    engine_for.cache_clear()
    assert len({id(found) for found in race(6, lambda _number: engine())}) == len(made) == 1


def test_a_transaction_commits_together_or_not_at_all(catalogue: Catalogue) -> None:
    def fail() -> None:
        with transaction() as session:
            session.add(Plan(name="half", vcpus=1, memory_mib=1, disk_gib=1))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with engine().connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM plans WHERE name='half'")) == 0


@pytest.mark.usefixtures("database")
def test_the_shared_lock_lets_one_in_at_a_time(race: Race) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with exclusive("edge:one"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.005)
            inside.remove(number)

    assert race(10, work) == [None] * 10
    assert max(most) == 1


@pytest.mark.usefixtures("database")
def test_locks_of_different_names_do_not_meet() -> None:
    entered = threading.Event()

    def other() -> None:
        with exclusive("edge:two"):
            entered.set()

    with exclusive("edge:one"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
    assert entered.is_set()


@pytest.mark.usefixtures("database")
def test_the_shared_lock_is_free_again_after_an_error() -> None:
    def fail() -> None:
        with exclusive("edge:one"):
            raise RuntimeError

    for _ in range(3):
        with pytest.raises(RuntimeError):
            fail()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_connection_that_the_server_cuts_is_an_error_worth_a_retry(database: str) -> None:
    cut = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(TransientError), transaction() as session:
        session.execute(cut)
    with transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
    with exclusive("edge:one"), engine().connect() as connection:
        # the holder of the lock is cut off: the lock is gone, and nobody trips over it
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        )
    with exclusive("edge:one"):
        pass


def test_a_database_that_is_away_is_an_error_worth_a_retry(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    settings.cache_clear()
    with pytest.raises(DatabaseUnavailable), transaction() as session:
        session.execute(text("SELECT 1"))
    with pytest.raises(DatabaseUnavailable), exclusive("edge:one"):
        pass
