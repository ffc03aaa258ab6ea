"""Schema migrations (Alembic), run from code: there is no alembic.ini to find or to forget.

The newest schema is wanted by whoever starts first, and several may start at once: they take turns
on a lock of the database itself, in the transaction that migrates.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import InterfaceError, OperationalError

from innkeeper.db.session import DatabaseUnavailable, engine_for
from innkeeper.errors import PermanentError
from innkeeper.settings import settings

SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = "innkeeper:migrate"


class MigrationBroken(PermanentError):
    """A migration does not keep the references between tables."""

    status = 500


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(url: str) -> Iterator[Connection]:
    """Yield a connection in a transaction that shuts other migrations out."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(engine_for(url).connect())
            if connection.dialect.name == "sqlite":
                stack.enter_context(_without_foreign_keys(connection))
            stack.enter_context(connection.begin())
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:n, 0))"), {"n": _LOCK}
                )
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable(
                "The database cannot be migrated, it does not answer: check that it runs, retry."
            ) from error
        yield connection


@contextmanager
def _without_foreign_keys(connection: Connection) -> Iterator[None]:
    """Let a table be copied and dropped (https://sqlite.org/lang_altertable.html, section 7).

    SQLite ignores the pragma inside a transaction, so it goes past SQLAlchemy, which would begin
    one.
    """
    raw = connection.connection.dbapi_connection
    if raw is None:
        raise OperationalError("PRAGMA foreign_keys=OFF", None, RuntimeError("no connection"))
    raw.cursor().execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        raw.cursor().execute("PRAGMA foreign_keys=ON")


def upgrade(url: str | None = None) -> None:
    """Bring the database (the configured one by default) to the newest schema, all or nothing.

    Safe when several processes call it at once: PostgreSQL's advisory lock, or SQLite's write lock
    (the transaction begins IMMEDIATE), is held until the commit.

    Raises:
        DatabaseUnavailable: the database does not answer.
    """
    with _migrating(url or settings().database_url) as connection:
        command.upgrade(_config(connection), "head")
        if connection.dialect.name == "sqlite":
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
            if broken:
                raise MigrationBroken(
                    f"The migration would leave {len(broken)} rows without what they refer to; "
                    "nothing was changed: report this."
                )


def current(url: str | None = None) -> str | None:
    """Return the revision of a database, or None when it was never migrated."""
    with engine_for(url or settings().database_url).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def new_revision(message: str) -> None:
    """Write a migration file from what the models say and the configured database lacks."""
    upgrade()
    with engine_for(settings().database_url).connect() as connection:
        number = len(list((SCRIPTS / "versions").glob("[0-9]*.py"))) + 1
        command.revision(_config(connection), message, autogenerate=True, rev_id=f"{number:04}")


def main() -> None:
    """Migrate, or with `--new MESSAGE` write the next migration."""
    parser = argparse.ArgumentParser(prog="python -m innkeeper.db.migrate", description=__doc__)
    parser.add_argument("--new", metavar="MESSAGE", help="write a migration from the models")
    message = parser.parse_args().new
    if message:
        new_revision(message)
    else:
        upgrade()
        print(f"database schema is at revision {current()}")  # noqa: T201 - a command's answer


if __name__ == "__main__":
    main()
