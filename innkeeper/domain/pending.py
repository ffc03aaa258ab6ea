"""A resize that waits: wanted and accepted, but not worth interrupting the guest for."""

from typing import Any

from innkeeper.domain.specs import ResizeRequest

CONDITION = "ReconfigurePendingPowerCycle"
"""The condition of a server whose resize waits for a power cycle."""


class PendingResizeRequest(ResizeRequest):
    """The resize that waits, to be carried out now; nobody can ask for it from outside.

    `fine` is all of the CPU's fine print, `backing` all of the memory's. `ends` is how the server
    is to rest then, if not as before; `cycle` powers it off and on even if there were another way
    by now, `hard` without asking the guest first.
    """

    fine: dict[str, Any] | None = None
    backing: dict[str, Any] | None = None
    plan_id: str | None = None
    ends: str | None = None
    cycle: bool = False
    hard: bool = False
