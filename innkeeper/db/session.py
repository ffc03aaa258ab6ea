"""Sessions: synchronous and short; one service call is one transaction.

On SQLite every transaction begins IMMEDIATE, so that a read that decides a write holds the lock
that PostgreSQL would give through SELECT … FOR UPDATE.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.orm import Session, sessionmaker

from innkeeper.errors import TransientError
from innkeeper.settings import settings

logger = logging.getLogger(__name__)
_making = threading.Lock()  # the cache lets two threads that come first make two engines


class DatabaseUnavailable(TransientError):
    """The database does not answer, or broke the connection."""

    slug = "database-unavailable"
    title = "Database unavailable"


@lru_cache(maxsize=4)
def engine_for(url: str) -> Engine:
    """Return the process's engine for a database URL."""
    if not url.startswith("sqlite"):
        return create_engine(
            url,
            pool_size=10,
            max_overflow=20,
            pool_pre_ping=True,
            pool_recycle=1800,
            hide_parameters=True,  # an error's text goes to logs, its parameters may be secrets
        )
    settings().home.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = create_engine(
        url, connect_args={"timeout": 60, "check_same_thread": False}, hide_parameters=True
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # pysqlite must not begin transactions by itself
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def engine() -> Engine:
    """Return the engine of the configured database, one for all threads."""
    with _making:
        return engine_for(settings().database_url)


@contextmanager
def transaction() -> Iterator[Session]:
    """Yield a session whose work commits together or not at all.

    Raises:
        DatabaseUnavailable: the connection failed; the transaction did not commit, as far as known.
    """
    factory = sessionmaker(engine(), expire_on_commit=False)
    try:
        with factory.begin() as session:
            yield session
    except (OperationalError, InterfaceError) as error:
        logger.warning("database: %s", type(error.orig).__name__)
        raise DatabaseUnavailable(
            "The database does not answer just now: check that it runs, then retry."
        ) from error
    except PoolExhausted as error:
        raise DatabaseUnavailable("The database is busy, no connection got free: retry.") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailable("The database closed the connection: retry.") from error
        raise


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold a lock that all processes share, for work that must not overlap (edge, substrate).

    A PostgreSQL advisory lock, or a file lock with SQLite; both are free when the holder dies.
    """
    if not urlsplit(settings().database_url).scheme.startswith("postgresql"):
        folder = settings().home / "locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / f"{name.replace('/', '_').replace(':', '_')}.lock"):
            yield
        return
    connection = _locked(name)
    try:
        yield
    finally:
        try:
            connection.execute(
                text("SELECT pg_advisory_unlock(hashtextextended(:n, 0))"), {"n": name}
            )
        except OperationalError:  # the server went away and took the lock with it
            connection.invalidate()
        finally:
            connection.close()


def _locked(name: str) -> Connection:
    connection = None
    try:
        connection = engine().connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:n, 0))"), {"n": name})
    except (OperationalError, InterfaceError, PoolExhausted) as error:
        if connection is not None:
            connection.close()
        raise DatabaseUnavailable("The database does not answer just now: retry.") from error
    return connection
