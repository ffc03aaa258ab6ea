"""Cursor pages: newest first, stable while rows come and go."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from innkeeper.errors import InvalidRequest

T = TypeVar("T")


def encode(created_at: datetime, identifier: UUID) -> str:
    """Return the opaque cursor that continues after this row."""
    text = json.dumps([created_at.isoformat(), str(identifier)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[datetime, UUID]:
    """Return what `encode` packed.

    Raises:
        InvalidRequest: this was not made by `encode`.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        instant, identifier = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return datetime.fromisoformat(instant).astimezone(UTC), UUID(identifier)
    except (
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        binascii.Error,
        RecursionError,
    ) as error:
        raise InvalidRequest("The cursor is not one of ours: start from the first page.") from error


def page(
    session: Session,
    statement: Select[tuple[T]],
    created_at: InstrumentedAttribute[datetime],
    identifier: InstrumentedAttribute[UUID],
    *,
    limit: int,
    cursor: str | None,
) -> tuple[list[T], str | None]:
    """Return at most `limit` rows after the cursor, newest first, and the next cursor."""
    if cursor:
        instant, last = decode(cursor)
        statement = statement.where(tuple_(created_at, identifier) < (instant, last))
    ordered = statement.order_by(created_at.desc(), identifier.desc()).limit(limit + 1)
    rows: list[Any] = list(session.scalars(ordered).all())
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    tail = rows[-1]
    return rows, encode(tail.created_at, tail.id)
