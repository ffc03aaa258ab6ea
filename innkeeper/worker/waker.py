"""Tells the worker what happens to flow runs of its pool, as it happens, over one websocket.

So the worker need not ask five times a second: an idle stack stays idle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from uuid import UUID

from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.events.schemas.events import Event

logger = logging.getLogger(__name__)

_PREFIX = "prefect.flow-run."
CANCELS = frozenset({"Cancelling", "Cancelled"})
SUSPENDED = "Suspended"
_DUE = frozenset({"Scheduled", "AwaitingRetry"})
_WATCHED = sorted(_DUE | CANCELS | {SUSPENDED})
_BACKOFF_SECONDS = (0.2, 1.0, 2.0, 5.0)

Listener = Callable[[str, UUID], Awaitable[None]]
"""Called with a state's name and the flow run's id."""


async def listen(work_pool_id: UUID, listener: Listener) -> None:
    """Report state changes of the pool's flow runs until cancelled; reconnects for ever.

    Prefect repeats the last minute after a reconnection, so nothing that matters is missed; what
    is reported twice does no harm.
    """
    failures = 0
    while True:
        try:
            async with get_events_subscriber(filter=_filter(work_pool_id)) as subscriber:
                async for event in subscriber:
                    failures = 0
                    await _report(event, listener)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the slow poll goes on
            logger.debug("The event stream of Prefect was lost: %s", error)
        await asyncio.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)])
        failures += 1


def _filter(work_pool_id: UUID) -> EventFilter:
    return EventFilter(
        event=EventNameFilter(name=[_PREFIX + name for name in _WATCHED]),
        any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool_id}"]),
    )


async def _report(event: Event, listener: Listener) -> None:
    identifier = event.resource.id.removeprefix(_PREFIX)
    try:
        flow_run_id = UUID(identifier)
    except ValueError:
        return
    try:
        await listener(event.event.removeprefix(_PREFIX), flow_run_id)
    except Exception:
        logger.exception("Handling of %s failed", event.event)
