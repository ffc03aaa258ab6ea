"""Follow operations to their end: server-sent events, and polling where those fail."""

import json
import time
from collections.abc import Iterator, Sequence
from uuid import UUID

from pydantic import ValidationError

from innkeeper.cli.client import Client, Json
from innkeeper.cli.failures import CliFailure, Unreachable
from innkeeper.cli.lookup import parsed
from innkeeper.cli.sse import ServerSentEvent
from innkeeper.services.views import OperationView, StepView

OUTAGE_SECONDS = 120.0
"""How long the API may be away while we wait: a restart of the stack ends no wait."""

SHORTEST_POLL, LONGEST_POLL = 0.3, 2.0  # seconds
_OVERVIEW = 100  # operations of others that may be newer than ours


def watch(client: Client, operations: Sequence[UUID]) -> Iterator[OperationView]:
    """Yield every operation each time it changed, until all have ended.

    Raises:
        CliFailure: the API refuses, or is away for longer than OUTAGE_SECONDS.
    """
    if len(operations) == 1:
        yield from _watch_one(client, operations[0])
    else:
        yield from _poll(client, set(operations))


def _watch_one(client: Client, operation_id: UUID) -> Iterator[OperationView]:
    state: OperationView | None = None
    last_answer = time.monotonic()
    while True:
        try:
            for state in _stream(client, operation_id):
                last_answer = time.monotonic()
                yield state
            if state is not None and state.phase.ended:
                return
        except Unreachable:
            if time.monotonic() - last_answer > OUTAGE_SECONDS:
                raise
        except (CliFailure, ValidationError, ValueError):
            yield from _poll(client, {operation_id})  # no stream here: ask instead
            return
        time.sleep(SHORTEST_POLL)  # the stream ended early: open it again


def _stream(client: Client, operation_id: UUID) -> Iterator[OperationView]:
    path = f"/operations/{operation_id}"
    state = _get(client, operation_id)
    yield state
    if state.phase.ended:
        return
    with client.events(f"{path}/events") as events:
        for event in events:
            state = _merged(state, event)
            if event.name == "end" or state.phase.ended:
                break
            yield state
        else:
            return
    yield _get(client, operation_id)


def _merged(state: OperationView, event: ServerSentEvent) -> OperationView:
    if event.name not in {"step", "operation"}:
        return state
    payload = json.loads(event.data)
    if event.name == "operation":
        return OperationView.model_validate({"steps": state.steps, **payload})
    step = StepView.model_validate(payload)
    others = [known for known in state.steps if known.name != step.name]
    return state.model_copy(update={"steps": [*others, step]})


def _poll(client: Client, pending: set[UUID]) -> Iterator[OperationView]:
    pause, last_answer = SHORTEST_POLL, time.monotonic()
    seen: dict[UUID, OperationView] = {}
    while pending:
        try:
            states = _states(client, pending)
        except Unreachable:
            if time.monotonic() - last_answer > OUTAGE_SECONDS:
                raise
            states = []
        else:
            last_answer = time.monotonic()
        changed = [state for state in states if seen.get(state.id) != state]
        for state in changed:
            seen[state.id] = state
            yield state
            if state.phase.ended:
                pending = pending - {state.id}
        pause = SHORTEST_POLL if changed else min(pause * 1.5, LONGEST_POLL)
        if pending:
            time.sleep(pause)


def _states(client: Client, wanted: set[UUID]) -> list[OperationView]:
    if len(wanted) == 1:
        return [_get(client, operation_id) for operation_id in wanted]
    # One request for the newest operations finds most; what is older is asked for by itself.
    newest: list[Json] = list(client.items("/operations", limit=len(wanted) + _OVERVIEW))
    found = {view.id: view for view in (parsed(OperationView, entry) for entry in newest)}
    return [found.get(identifier) or _get(client, identifier) for identifier in wanted]


def _get(client: Client, operation_id: UUID) -> OperationView:
    return parsed(OperationView, client.get(f"/operations/{operation_id}"))
