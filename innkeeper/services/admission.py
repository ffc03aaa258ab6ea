"""What every acceptance asks first: the key's own request, project, name, plan and quota."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import bcrypt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import Operation, Plan, Project, Server
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Status, Verb
from innkeeper.domain.placement import Demand, Verdict
from innkeeper.domain.quotas import Amounts, require_within
from innkeeper.errors import (
    Conflict,
    ForwardPortsExhausted,
    InvalidRequest,
    NoHostFits,
    NotFound,
)
from innkeeper.services import events, reservations
from innkeeper.services.archive import is_current

KEY_LIMIT = 255
KEY_TAKEN = "This idempotency key was used for another request: send a new key, or the same body."
NAME_TAKEN = "Server '{}' exists already: choose another name."
_KEY_COLUMN = "idempotency_key"  # both databases name it when it is not unique


@dataclass(frozen=True)
class Secrets:
    """What each new server gets of its own; made before its transaction, which holds locks."""

    host_key_private: str
    host_key_public: str
    root_password: str | None
    root_password_hash: str | None


def make_secrets(*, with_password: bool) -> Secrets:
    """Return an SSH host key, and a root password on request."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    ).decode()
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    password = secrets.token_urlsafe(18) if with_password else None
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=10)) if password else None
    return Secrets(private, public.decode(), password, hashed.decode() if hashed else None)


def digest_of(verb: Verb, subject: str, body: dict[str, Any]) -> str:
    """Return what tells two requests under one idempotency key apart."""
    text = json.dumps([verb, subject, body], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def repetition(
    session: Session, project_id: UUID, key: str | None, digest: str
) -> Operation | None:
    """Return the operation that this idempotency key already made.

    Raises:
        Conflict: it made another one.
        InvalidRequest: it is none.
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


def locked_project(session: Session, project_id: UUID) -> Project:
    """Return the project with its row locked: the first lock that a request takes."""
    project = session.scalar(
        select(Project).where(Project.id == project_id).with_for_update(of=Project, key_share=True)
    )
    if project is None:
        raise NotFound("There is no such project.")
    return project


def require_free_name(session: Session, project_id: UUID, name: str) -> None:
    """Raise Conflict when a server of the project has this name."""
    if session.scalar(
        select(Server.id).where(
            Server.project_id == project_id, Server.name == name, Server.status != Status.DELETED
        )
    ):
        raise Conflict(NAME_TAKEN.format(name))


def current_plan(session: Session, name: str) -> Plan:
    """Return a plan that is not removed meanwhile, or raise NotFound."""
    plan = session.scalar(
        select(Plan)
        .where(Plan.name == name, is_current(Plan.name))
        .with_for_update(read=True, key_share=True)
    )
    if plan is None:
        raise NotFound(f"There is no plan '{name}': see `innkeeper plan list`.")
    return plan


def require_quota(session: Session, project: Project, demand: Demand) -> None:
    """Raise QuotaExceeded when the project may not hold one more server of that size."""
    quota = project.quota
    require_within(
        Amounts(quota.servers, quota.vcpus, quota.memory_mib, quota.disk_gib),
        reservations.reserved_by_project(session, project.id),
        Amounts(1, demand.vcpus, demand.memory_mib, demand.disk_gib),
    )


@contextmanager
def refusals(
    name: str, project_id: UUID, actor: str, *, keep: bool = True
) -> Iterator[list[Verdict]]:
    """Keep a refusal by placement as an event, with the verdict that was put into the list.

    A dry run's is not worth keeping.

    Raises:
        Conflict: the name of the new server, or the idempotency key, was taken meanwhile.
    """
    verdicts: list[Verdict] = []
    try:
        yield verdicts
    except (NoHostFits, ForwardPortsExhausted) as refusal:
        if not keep:
            raise
        with transaction() as session:
            events.record(
                session,
                "server.refused",
                actor=actor,
                project_id=project_id,
                reason=str(refusal),
                after=verdicts[-1].as_dict() if verdicts else None,
            )
        raise
    except IntegrityError as error:
        if _KEY_COLUMN in str(error.orig):
            raise Conflict(KEY_TAKEN) from error
        raise Conflict(NAME_TAKEN.format(name)) from error
