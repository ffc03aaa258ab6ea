"""Read models of what stands out of a server's state; the others are in `views`."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from innkeeper.domain.planning import Effect


class View(BaseModel):
    """Base of the read models."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class ConditionView(View):
    """Something that stands out of a server's state, and since when."""

    type: Literal["ReconfigurePendingPowerCycle", "ResourcesPending"]
    since: datetime
    message: str


class ChangeView(View):
    """One change of a plan; null: there is nothing before, or after."""

    effect: Effect
    subject: str
    before: str | None
    after: str | None


class PendingResizeView(View):
    """A resize that waits for a power cycle; what it grows by is held already."""

    operation_id: UUID
    asked_by: str
    since: datetime
    vcpus: int
    memory_mib: int
    disk_gib: int
    changes: list[ChangeView]
    reasons: dict[str, str]
