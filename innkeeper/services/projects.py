"""Projects, the tenants, and their quotas."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from innkeeper.db.models import Project, Quota
from innkeeper.db.session import transaction
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import binding, events
from innkeeper.services.layering import held
from innkeeper.services.reservations import reserved_by_project
from innkeeper.services.views import ProjectView, QuotaView


def create(
    name: str,
    *,
    servers: int = 10,
    vcpus: int = 20,
    memory_mib: int = 51200,
    disk_gib: int = 1000,
    snapshots: int = 50,
    snapshot_gib: int = 500,
    isolated_networks: int = 10,
    actor: str = "system",
) -> ProjectView:
    """Create a project with its quota (-1: no limit).

    Raises:
        Conflict: the name is taken.
    """
    limits = {
        "servers": servers,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "disk_gib": disk_gib,
        "snapshots": snapshots,
        "snapshot_gib": snapshot_gib,
        "isolated_networks": isolated_networks,
    }
    try:
        with transaction() as session:
            quota = Quota(**limits)  # type: ignore[arg-type]  # all of them are numbers
            project = Project(name=name, quota=quota)
            session.add(project)
            session.flush()
            events.record(
                session,
                "project.created",
                actor=actor,
                project_id=project.id,
                after={"name": name, **limits},
            )
            return ProjectView.model_validate(project)
    except IntegrityError as error:
        raise Conflict(f"Project '{name}' exists already: choose another name.") from error


def all() -> list[ProjectView]:  # noqa: A001 - reads as projects.all()
    """Return every project, by name."""
    with transaction() as session:
        rows = session.scalars(select(Project).order_by(Project.name))
        return [ProjectView.model_validate(row) for row in rows]


def find(name_or_id: str | UUID) -> ProjectView:
    """Return the project with this id or name, or raise NotFound."""
    with transaction() as session:
        return ProjectView.model_validate(_found(session, name_or_id))


def quota(project_id: UUID) -> QuotaView:
    """Return a project's limits and what its servers hold now."""
    with transaction() as session:
        _found(session, project_id)
        return _quota_view(session, project_id)


def set_quota(
    project_id: UUID,
    *,
    servers: int | None = None,
    vcpus: int | None = None,
    memory_mib: int | None = None,
    disk_gib: int | None = None,
    snapshots: int | None = None,
    snapshot_gib: int | None = None,
    isolated_networks: int | None = None,
    actor: str = "system",
) -> QuotaView:
    """Change the limits that are given; servers beyond a lowered limit stay."""
    asked: dict[str, Any] = {
        "servers": servers,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "disk_gib": disk_gib,
        "snapshots": snapshots,
        "snapshot_gib": snapshot_gib,
        "isolated_networks": isolated_networks,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    with transaction() as session:
        _found(session, project_id)
        limits = session.get_one(Quota, project_id, with_for_update=True)
        before = {name: getattr(limits, name) for name in changes}
        for name, value in changes.items():
            setattr(limits, name, value)
        if changes != before:
            events.record(
                session,
                "project.quota.changed",
                actor=actor,
                project_id=project_id,
                before=before,
                after=changes,
            )
        session.flush()
        return _quota_view(session, project_id)


def _found(session: Session, name_or_id: str | UUID) -> Project:
    project: Project | None = None
    try:
        identifier = name_or_id if isinstance(name_or_id, UUID) else UUID(name_or_id)
    except ValueError:
        project = session.scalar(select(Project).where(Project.name == name_or_id))
    else:
        project = session.get(Project, identifier)
    if project is None:
        raise NotFound(f"There is no project '{name_or_id}': see `innkeeper project list`.")
    return project


def _quota_view(session: Session, project_id: UUID) -> QuotaView:
    limits = session.get_one(Quota, project_id)
    used = reserved_by_project(session, project_id)
    kept = held(session, project_id)
    return QuotaView(
        servers=limits.servers,
        vcpus=limits.vcpus,
        memory_mib=limits.memory_mib,
        disk_gib=limits.disk_gib,
        snapshots=limits.snapshots,
        snapshot_gib=limits.snapshot_gib,
        isolated_networks=limits.isolated_networks,
        used_servers=used.servers,
        used_vcpus=used.vcpus,
        used_memory_mib=used.memory_mib,
        used_disk_gib=used.disk_gib,
        used_snapshots=kept.snapshots,
        used_snapshot_gib=kept.snapshot_gib,
        used_isolated_networks=binding.held(session, project_id).isolated_networks,
    )
