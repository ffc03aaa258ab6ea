"""Live progress of an operation as server-sent events.

The database is asked again and again, because it is the only place that every worker writes to; a
client that comes back is told the whole state, so nothing is missed and nothing need be kept.
"""

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator
from threading import Lock

import anyio
from anyio.to_thread import run_sync
from sse_starlette import EventSourceResponse, ServerSentEvent

from innkeeper.api.problems import RateExceeded
from innkeeper.errors import InnkeeperError, TransientError
from innkeeper.services import operations
from innkeeper.services.views import OperationView, Principal, StepView

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.3
_PING_SECONDS = 15
_OUTAGE_POLLS = 100
_SEATS = 20


class Seats:
    """How many streams each key has open: they cost a query each every 0.3 seconds."""

    def __init__(self, limit: int = _SEATS) -> None:
        """Allow `limit` streams a key."""
        self._limit = limit
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    def take(self, key_id: str) -> None:
        """Take a seat.

        Raises:
            RateExceeded: the key has none left.
        """
        with self._lock:
            if self._taken[key_id] >= self._limit:
                raise RateExceeded(
                    f"This key follows {self._limit} operations already: end one, or poll.", 5
                )
            self._taken[key_id] += 1

    def leave(self, key_id: str) -> None:
        """Give a seat back."""
        with self._lock:
            self._taken[key_id] -= 1
            if self._taken[key_id] <= 0:
                del self._taken[key_id]


class _Stream(EventSourceResponse):
    """Gives its seat back however it ends, even before its first byte."""

    seats: Seats
    key_id: str

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        """Send until the operation or the client ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.seats.leave(self.key_id)


def stream(state: OperationView, principal: Principal, seats: Seats) -> EventSourceResponse:
    """Return the response that follows an operation; the caller has taken a seat."""
    response = _Stream(_events(state, principal), ping=_PING_SECONDS)
    response.seats, response.key_id = seats, str(principal.key_id)
    return response


async def _events(state: OperationView, principal: Principal) -> AsyncIterator[ServerSentEvent]:
    yield _operation(state)
    known: dict[str, StepView] = {}
    failures = 0
    while True:
        for step in state.steps:
            if known.get(step.name) != step:
                known[step.name] = step
                yield ServerSentEvent(step.model_dump_json(), event="step")
        if state.phase.ended:
            break
        await anyio.sleep(POLL_SECONDS)
        try:
            fresh = await run_sync(operations.get, state.id, principal.project_id)
        except TransientError:
            failures += 1
            if failures > _OUTAGE_POLLS:
                return
            continue
        except InnkeeperError as error:
            logger.info("The stream of operation %s ends: %s", state.id, error)
            return
        failures = 0
        if _face(fresh) != _face(state):
            yield _operation(fresh)
        state = fresh
    yield ServerSentEvent(json.dumps({"phase": state.phase, "error": state.error}), event="end")


def _face(state: OperationView) -> tuple[object, ...]:
    """Return what of an operation, steps aside, is news when it changes."""
    return (
        state.phase,
        state.undoing,
        state.attempt,
        state.cancel_requested,
        state.error,
        state.flow_run_id,
    )


def _operation(state: OperationView) -> ServerSentEvent:
    return ServerSentEvent(state.model_dump_json(exclude={"steps"}), event="operation")
