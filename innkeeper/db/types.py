"""Column types: UTC instants and text encrypted at rest."""

from datetime import UTC, datetime
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import DateTime, Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator

from innkeeper.errors import PermanentError
from innkeeper.settings import settings


class SecretKeyMismatch(PermanentError):
    """The secret key is not the one that the database was written with."""

    status = 500


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite would lose the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        del dialect
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read UTC."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


@lru_cache(maxsize=4)
def _fernet(key: bytes) -> Fernet:
    return Fernet(key)


class EncryptedText(TypeDecorator[str]):
    """Text that only the holder of the secret key can read (Fernet, `cryptography`)."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """Encrypt."""
        del dialect
        return None if value is None else _fernet(settings().secret_key()).encrypt(value.encode())

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """Decrypt; raise `SecretKeyMismatch` when the key is another one."""
        del dialect
        if value is None:
            return None
        try:
            return _fernet(settings().secret_key()).decrypt(value).decode()
        except InvalidToken as error:
            raise SecretKeyMismatch(
                "The secret key does not fit the database: restore secret.key in INNKEEPER_HOME."
            ) from error
