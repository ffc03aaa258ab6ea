"""The plan of a kept disk's deletion: no server has it, so it is no verb and makes no operation."""

from sqlalchemy.orm import Session

from innkeeper.db.models import DataDisk, Host, Project
from innkeeper.domain import foresight as rules
from innkeeper.domain import planning
from innkeeper.domain.naming import POOL
from innkeeper.domain.planning import DELETE_DISK
from innkeeper.services import binding, layering, reservations
from innkeeper.services.planning import ACT, Foreseen, Foresight, quota_room
from innkeeper.services.views import ChangePlan, ChangeView, HostRoom


def tell(session: Session, disk: DataDisk, foresight: Foresight) -> None:
    """End a dry run of a disk's deletion; or see that the disk is as in the plan that was shown.

    The caller has seen that it may be deleted.

    Raises:
        Foreseen: it was a dry run; whoever holds the transaction lets that pass.
        PlanOutdated: it is not as in the plan whose digest was brought.
        InvalidRequest: that is no digest of such a plan.
    """
    if foresight == ACT:
        return
    host = session.get_one(Host, disk.host_id)
    plan = rules.delete_disk(disk.name, disk.size_gib)
    facts = {
        "request": str(disk.id),
        "status": disk.phase,
        "host": host.name,
        "data disks": f"{disk.name} {disk.size_gib} GiB",
        planning.OUTCOME: plan.outcome,
    }
    if foresight.digest is not None:
        planning.require_unchanged(DELETE_DISK, facts, foresight.digest)
    if not foresight.dry_run:
        return
    capacities = reservations.capacities(session, lock=False)
    free = next(one.free for one in capacities if one.host_id == host.id)
    quota = session.get_one(Project, disk.project_id).quota
    used = reservations.reserved_by_project(session, disk.project_id)
    raise Foreseen(
        ChangePlan(
            verb=DELETE_DISK,
            server_id=None,
            server=None,
            changes=[ChangeView.model_validate(change) for change in plan.changes],
            interruption=plan.interruption,
            host=HostRoom(
                name=host.name,
                free_vcpus=free.vcpus,
                free_memory_mib=free.memory_mib,
                free_disk_gib=free.disk_gib + (disk.size_gib if disk.pool == POOL else 0),
            ),
            quota=quota_room(
                quota,
                used,
                layering.held(session, disk.project_id),
                binding.held(session, disk.project_id),
                back=(0, 0, 0, disk.size_gib),
            ),
            warnings=list(plan.warnings),
            steps=[],
            digest=planning.digest(DELETE_DISK, facts),
        )
    )
