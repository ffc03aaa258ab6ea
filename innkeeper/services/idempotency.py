"""Idempotency keys: the same request with the same key is carried out once."""

import hashlib
import json
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from innkeeper.db.models import Operation
from innkeeper.domain.lifecycle import Verb
from innkeeper.errors import Conflict, InvalidRequest

KEY_LIMIT = 255
KEY_TAKEN = "This idempotency key was used for another request: send a new key, or the same body."


def digest_of(verb: Verb, subject: str, body: dict[str, Any]) -> str:
    """Return what tells one request from another."""
    text = json.dumps([verb, subject, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def repetition(
    session: Session, project_id: UUID, key: str | None, digest: str
) -> Operation | None:
    """Return the operation that this idempotency key already made.

    Raises:
        Conflict: it was for another request.
        InvalidRequest: it is too long, or has what cannot be printed.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= KEY_LIMIT or not key.isprintable():
        raise InvalidRequest(f"An idempotency key has 1 to {KEY_LIMIT} printable characters.")
    operation = session.scalar(
        select(Operation).where(
            Operation.project_id == project_id, Operation.idempotency_key == key
        )
    )
    if operation is not None and operation.request_hash != digest:
        raise Conflict(KEY_TAKEN)
    return operation
