"""The audit trail: who did what, when and why, before and after."""

import base64
import binascii
import re
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import Event
from innkeeper.db.session import transaction
from innkeeper.errors import InvalidRequest
from innkeeper.services.views import EventView, Page

_REASON_LIMIT = 4096
_ACTOR_LIMIT = 128
_LARGEST_ID = 2**63 - 1


def record(
    session: Session,
    kind: str,
    *,
    actor: str = "system",
    project_id: UUID | None = None,
    server_id: UUID | None = None,
    operation_id: UUID | None = None,
    reason: str = "",
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Add an event to the caller's transaction: it exists if and only if the change does.

    `kind` is `thing.what-happened`. Nothing secret belongs into any of the fields.
    """
    session.add(
        Event(
            kind=kind,
            actor=actor[:_ACTOR_LIMIT],
            project_id=project_id,
            server_id=server_id,
            operation_id=operation_id,
            reason=reason[:_REASON_LIMIT],
            before=before,
            after=after,
        )
    )


def page(
    project_id: UUID | None = None,
    *,
    after_id: int | None = None,
    server_id: UUID | None = None,
    kind: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[EventView]:
    """Return a page of events: newest first, or with `after_id` oldest first from there on.

    `kind` is a whole kind (`server.create.accepted`) or the beginning of one (`server`).

    Raises:
        InvalidRequest: the cursor is not one of ours.
    """
    onward = after_id is not None
    mark = after_id
    if cursor is not None:
        onward, mark = _decode(cursor)
    statement = select(Event)
    if project_id is not None:
        statement = statement.where(Event.project_id == project_id)
    if server_id is not None:
        statement = statement.where(Event.server_id == server_id)
    if kind is not None:
        below = Event.kind.startswith(f"{kind}.", autoescape=True)
        statement = statement.where((Event.kind == kind) | below)
    if mark is not None:
        statement = statement.where(Event.id > mark if onward else Event.id < mark)
    statement = statement.order_by(Event.id if onward else Event.id.desc()).limit(limit + 1)
    with transaction() as session:
        rows = session.scalars(statement).all()
        items = [EventView.model_validate(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(items=items, next_cursor=_encode(items[-1].id, onward=onward) if more else None)


def _encode(mark: int, *, onward: bool) -> str:
    text = f"{'after' if onward else 'before'}:{mark}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[bool, int]:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    found = re.fullmatch(r"(after|before):([0-9]{1,19})", text)
    if found is None or int(found[2]) > _LARGEST_ID:
        raise InvalidRequest("The cursor is not one of ours: start from the first page.")
    return found[1] == "after", int(found[2])
