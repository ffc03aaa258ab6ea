"""Plans: named sizes with a price."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from innkeeper.db.models import Plan, Server
from innkeeper.db.session import transaction
from innkeeper.errors import Conflict, NotFound
from innkeeper.services import events
from innkeeper.services.archive import archived, is_current
from innkeeper.services.views import PlanView


def create(
    name: str,
    *,
    vcpus: int,
    memory_mib: int,
    disk_gib: int,
    price_per_hour: float = 0.0,
    actor: str = "system",
) -> PlanView:
    """Create a plan.

    Raises:
        Conflict: the name is taken.
    """
    try:
        with transaction() as session:
            plan = Plan(
                name=name,
                vcpus=vcpus,
                memory_mib=memory_mib,
                disk_gib=disk_gib,
                price_per_hour=price_per_hour,
            )
            session.add(plan)
            session.flush()
            seen = PlanView.model_validate(plan)
            events.record(session, "plan.created", actor=actor, after=seen.model_dump(mode="json"))
            return seen
    except IntegrityError as error:
        raise Conflict(f"Plan '{name}' exists already: choose another name.") from error


def all() -> list[PlanView]:  # noqa: A001 - reads as plans.all()
    """Return every plan, the smallest first."""
    order = (Plan.vcpus, Plan.memory_mib, Plan.disk_gib, Plan.name)
    with transaction() as session:
        rows = session.scalars(select(Plan).where(is_current(Plan.name)).order_by(*order))
        return [PlanView.model_validate(row) for row in rows]


def get(plan_id: UUID) -> PlanView:
    """Return a plan, or raise NotFound."""
    with transaction() as session:
        plan = session.scalar(select(Plan).where(Plan.id == plan_id, is_current(Plan.name)))
        if plan is None:
            raise NotFound("There is no such plan: see `innkeeper plan list`.")
        return PlanView.model_validate(plan)


def remove(plan_id: UUID, *, actor: str = "system") -> None:
    """Remove a plan; servers that were made with it keep their size.

    Raises:
        NotFound: there is no such plan.
    """
    with transaction() as session:
        plan = session.scalar(
            select(Plan).where(Plan.id == plan_id, is_current(Plan.name)).with_for_update()
        )
        if plan is None:
            raise NotFound("There is no such plan: see `innkeeper plan list`.")
        seen = PlanView.model_validate(plan).model_dump(mode="json")
        events.record(session, "plan.removed", actor=actor, before=seen)
        if session.scalar(select(Server.id).where(Server.plan_id == plan_id).limit(1)):
            plan.name = archived(plan.name, plan.id)
        else:
            session.delete(plan)
