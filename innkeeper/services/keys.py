"""API keys: random, kept only as a hash, each with a role and for users a project."""

import hashlib
import secrets
from datetime import timedelta
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from innkeeper.db.models import ApiKey, Project, now
from innkeeper.db.session import transaction
from innkeeper.domain.specs import Name
from innkeeper.errors import InvalidRequest, NotFound, Unauthenticated
from innkeeper.services import events
from innkeeper.services.views import ApiKeyView, Principal, Role

PREFIX = "ik_"
_RANDOM_BYTES = 32
_USE_NOTED_EVERY = timedelta(minutes=1)  # a write per request would be wasteful
_NAME = TypeAdapter(Name)


def digest(plaintext: str) -> str:
    """Return what the database keeps of a key.

    The key has 256 random bits, so a fast hash is enough and a lookup by it leaks no timing that
    would help to guess one.
    """
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


def create(
    name: str, role: Role, project_id: UUID | None = None, *, actor: str = "system"
) -> tuple[ApiKeyView, str]:
    """Make a key and return it with its plaintext, which nobody can see again.

    Raises:
        InvalidRequest: a user's key without project, or another role's key with one.
        NotFound: there is no such project.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        raise InvalidRequest(
            "A key's name has lower-case letters, digits and '-' and begins with a letter."
        ) from error
    if role == "user" and project_id is None:
        raise InvalidRequest("A user's key belongs to a project: name the project.")
    if role != "user" and project_id is not None:
        raise InvalidRequest(f"The role {role} is for all projects: leave the project out.")
    plaintext = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    with transaction() as session:
        if project_id is not None and session.get(Project, project_id) is None:
            raise NotFound("There is no such project: see `innkeeper project list`.")
        key = ApiKey(name=name, role=role, project_id=project_id, hash=digest(plaintext))
        session.add(key)
        session.flush()
        events.record(
            session,
            "key.created",
            actor=actor,
            project_id=project_id,
            after={"id": str(key.id), "name": name, "role": role},
        )
        return ApiKeyView.model_validate(key), plaintext


def authenticate(plaintext: str) -> Principal:
    """Return who holds this key.

    Raises:
        Unauthenticated: it is unknown or revoked.
    """
    with transaction() as session:
        key = session.scalar(select(ApiKey).where(ApiKey.hash == digest(plaintext)))
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("This API key is unknown or revoked: ask an admin for another.")
        if key.last_used_at is None or now() - key.last_used_at > _USE_NOTED_EVERY:
            key.last_used_at = now()
        return Principal.model_validate(
            {
                "key_id": key.id,
                "name": key.name,
                "role": key.role,
                "project_id": key.project_id,
            }
        )


def revoke(key_id: UUID, *, actor: str = "system") -> ApiKeyView:
    """Make a key useless from now on; once revoked it stays so.

    Raises:
        NotFound: there is no such key.
    """
    with transaction() as session:
        key = session.get(ApiKey, key_id, with_for_update=True)
        if key is None:
            raise NotFound("There is no such key: see `innkeeper key list`.")
        if key.revoked_at is None:
            key.revoked_at = now()
            events.record(
                session,
                "key.revoked",
                actor=actor,
                project_id=key.project_id,
                before={"id": str(key.id), "name": key.name, "role": key.role},
            )
        session.flush()
        return ApiKeyView.model_validate(key)


def all() -> list[ApiKeyView]:  # noqa: A001 - reads as keys.all()
    """Return every key, the revoked ones too, oldest first."""
    with transaction() as session:
        rows = session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id))
        return [ApiKeyView.model_validate(row) for row in rows]
