"""Where Terraform keeps its states: rows in PostgreSQL, or files beside SQLite.

States are also read here without starting Terraform: that costs milliseconds instead of half a
second, and works while somebody else holds the state's lock.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psycopg
from filelock import FileLock, Timeout
from psycopg import sql

from innkeeper.settings import Settings
from innkeeper.substrate.failure import StateUnreachable, SubstrateBusy

SCHEMA = "innkeeper_terraform"
CONNECT_SECONDS = 10
_LOCK_POLL_SECONDS = 0.1
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

State = dict[str, Any]


class Backend(ABC):
    """One of the two ways to keep states."""

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Return the content of backend.tf.json; it holds no secret."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return what the Terraform process needs in its environment."""

    @abstractmethod
    def states(self) -> dict[str, State]:
        """Return every state by the name of its workspace, in one query.

        Raises:
            StateUnreachable: the database does not answer.
        """

    @abstractmethod
    def state(self, workspace: str) -> State | None:
        """Return one state, or None when the workspace does not exist.

        Raises:
            StateUnreachable: the database does not answer.
        """

    @abstractmethod
    def exclusive(self, name: str, seconds: float) -> AbstractContextManager[None]:
        """Hold the lock `name` against every other worker, on this and other machines.

        Raises:
            SubstrateBusy: somebody else held it for longer than `seconds`.
        """

    @abstractmethod
    def forget(self, workspace: str) -> None:
        """Remove the state of a workspace; fine when there is none. The caller holds its lock."""


def backend(settings: Settings) -> Backend:
    """Return the backend that goes with the database."""
    if settings.database_url.startswith("postgresql"):
        return PostgresBackend(settings.database_url)
    return LocalBackend(settings.home / "terraform")


class LocalBackend(Backend):
    """One file a workspace, in a folder that only we can read."""

    def __init__(self, folder: Path) -> None:
        self.states_folder = folder / "state"
        self.locks_folder = folder / "locks"
        for made in (self.states_folder, self.locks_folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)

    def configuration(self) -> dict[str, Any]:
        """See `Backend.configuration`."""
        place = {
            "path": str(self.states_folder / "default.tfstate"),
            "workspace_dir": str(self.states_folder),
        }
        return {"terraform": {"backend": {"local": place}}}

    def environment(self) -> dict[str, str]:
        """See `Backend.environment`."""
        return {}

    def states(self) -> dict[str, State]:
        """See `Backend.states`."""
        names = [folder.name for folder in self.states_folder.iterdir() if folder.is_dir()]
        read = {name: self.state(name) for name in names}
        return {name: state for name, state in read.items() if state is not None}

    def state(self, workspace: str) -> State | None:
        """See `Backend.state`."""
        try:
            text = (self.states_folder / workspace / "terraform.tfstate").read_text()
        except FileNotFoundError:
            return None
        return _loaded(text)

    @contextmanager
    def exclusive(self, name: str, seconds: float) -> Iterator[None]:
        """See `Backend.exclusive`; a killed process loses the lock at once."""
        try:
            with FileLock(self.locks_folder / f"{name}.lock", timeout=seconds):
                yield
        except Timeout:
            raise SubstrateBusy(_busy(name, seconds)) from None

    def forget(self, workspace: str) -> None:
        """See `Backend.forget`."""
        shutil.rmtree(self.states_folder / workspace, ignore_errors=True)


class PostgresBackend(Backend):
    """One row a workspace in a schema of its own, so that any worker can apply."""

    def __init__(self, database_url: str) -> None:
        self.url = connection_string(database_url)

    def configuration(self) -> dict[str, Any]:
        """See `Backend.configuration`; the connection comes from the environment."""
        return {"terraform": {"backend": {"pg": {"schema_name": SCHEMA}}}}

    def environment(self) -> dict[str, str]:
        """See `Backend.environment`."""
        return {"PG_CONN_STR": self.url}

    def states(self) -> dict[str, State]:
        """See `Backend.states`."""
        return dict(self._rows(sql.SQL("TRUE"), ()))

    def state(self, workspace: str) -> State | None:
        """See `Backend.state`."""
        return dict(self._rows(sql.SQL("name = %s"), (workspace,))).get(workspace)

    @contextmanager
    def exclusive(self, name: str, seconds: float) -> Iterator[None]:
        """See `Backend.exclusive`: a session's advisory lock, gone with the session."""
        until = monotonic() + seconds
        with self._connected() as connection:
            while not self._taken(connection, name):
                if monotonic() >= until:
                    raise SubstrateBusy(_busy(name, seconds))
                sleep(_LOCK_POLL_SECONDS)
            yield

    def forget(self, workspace: str) -> None:
        """See `Backend.forget`."""
        query = sql.SQL("DELETE FROM {}.states WHERE name = %s").format(sql.Identifier(SCHEMA))
        try:
            with self._connected() as connection:
                connection.execute(query, (workspace,))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return

    def _rows(self, condition: sql.SQL, values: tuple[str, ...]) -> list[tuple[str, State]]:
        select = sql.SQL("SELECT name, data FROM {}.states WHERE {}")
        query = select.format(sql.Identifier(SCHEMA), condition)
        try:
            with self._connected() as connection:
                rows = connection.execute(query, values).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return []  # nothing was ever applied
        return [(name, _loaded(data)) for name, data in rows]

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        try:
            connection = psycopg.connect(self.url, autocommit=True, connect_timeout=CONNECT_SECONDS)
        except psycopg.OperationalError as error:
            raise StateUnreachable(
                "The database that keeps the Terraform states does not answer: check PostgreSQL "
                "and DATABASE_URL."
            ) from error
        try:
            yield connection
        finally:
            connection.close()

    @staticmethod
    def _taken(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> bool:
        row = connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"innkeeper substrate {name}",)
        ).fetchone()
        return bool(row and row[0])


def _loaded(text: str | None) -> State:
    state: State = json.loads(text or "{}")
    return state


def connection_string(database_url: str) -> str:
    """Return SQLAlchemy's URL as one that libpq and Terraform's own driver both accept.

    Terraform's driver demands TLS unless told otherwise and does not know libpq's default
    "prefer", so that TLS is left out on loopback and Unix sockets only.
    """
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query))
    host = parts.hostname or query.get("host", "")
    if query.get("sslmode", "prefer") in {"prefer", "allow"}:
        local = not host or host in _LOOPBACK or host.startswith("/")
        query["sslmode"] = "disable" if local else "require"
    account, _, place = parts.netloc.rpartition("@")
    if account:
        user, colon, password = account.partition(":")
        account = quote(unquote(user), safe="") + colon + quote(unquote(password), safe="") + "@"
    # Not urlunsplit: it drops the slashes when there is no host but a Unix socket.
    return f"postgres://{account}{place}{parts.path}?{urlencode(query)}"


def _busy(name: str, seconds: float) -> str:
    return f"Another run has been working on {name} for over {seconds:.0f} s: it is tried again."
