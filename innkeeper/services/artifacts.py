"""What exists, or may exist, outside the database: rows before the effect, and after it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from innkeeper.db.models import Artifact
from innkeeper.domain.steps import ArtifactKind
from innkeeper.services.blueprint import Blueprint

Things = Sequence[tuple[ArtifactKind, str]]


def intend(session: Session, plan: Blueprint, kind: ArtifactKind, name: str) -> None:
    """Note that a step is about to make something on the host of its blueprint."""
    row = session.scalar(select(Artifact).where(*_same(plan.host.id, kind, name)))
    if row is None:
        session.add(
            Artifact(
                host_id=plan.host.id,
                server_id=plan.server_id,
                operation_id=plan.operation_id,
                kind=kind,
                name=name,
            )
        )
    else:
        row.server_id = plan.server_id  # a copy of a data disk may be another server's by now


def close(session: Session, host_id: UUID | None, made: Things, removed: Things) -> None:
    """Note what a step that has ended left on a host, and forget what it removed there."""
    for kind, name in made:
        session.execute(update(Artifact).where(*_same(host_id, kind, name)).values(state="present"))
    for kind, name in removed:
        session.execute(delete(Artifact).where(*_same(host_id, kind, name)))


def _same(host_id: UUID | None, kind: ArtifactKind, name: str) -> tuple[Any, ...]:
    return (Artifact.host_id == host_id, Artifact.kind == kind, Artifact.name == name)
