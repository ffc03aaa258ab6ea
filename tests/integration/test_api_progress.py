"""Live progress over a real connection: what a client sees while an operation goes on."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from sqlalchemy import update

from innkeeper import dispatch
from innkeeper.api.app import create_app
from innkeeper.db.models import Operation, OperationStep
from innkeeper.db.session import transaction
from innkeeper.services import keys

PATIENCE_SECONDS = 20.0


class Served:
    """A served API and a user's key."""

    def __init__(self, url: str, key: str, app: Any) -> None:
        self.app = app
        self.client = httpx.Client(
            base_url=f"{url}/api/v1",
            headers={"Authorization": f"Bearer {key}"},
            timeout=PATIENCE_SECONDS,
            trust_env=False,
        )

    def events(self, operation_id: UUID) -> Iterator[tuple[str, dict[str, Any]]]:
        with self.client.stream("GET", f"/operations/{operation_id}/events") as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in response.iter_lines():
                kind, _, rest = line.partition(": ")
                if kind == "event":
                    name = rest
                elif kind == "data":
                    yield name, json.loads(rest)


@pytest.fixture
def served(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(dispatch, "dispatch", lambda _operation: None)
    key = keys.create("alice", "user", catalogue.project_id)[1]
    app = create_app()
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            one = Served(f"http://127.0.0.1:{listening.getsockname()[1]}", key, app)
            with one.client:
                yield one
        finally:
            server.should_exit = True
            thread.join(30)


def _set(operation_id: UUID, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(Operation).where(Operation.id == operation_id).values(**values))


def _step(operation_id: UUID, name: str, ordinal: int, **values: Any) -> None:
    with transaction() as session:
        found = session.get(OperationStep, (operation_id, name))
        if found is None:
            found = OperationStep(operation_id=operation_id, name=name, ordinal=ordinal)
            session.add(found)
        for field, value in values.items():
            setattr(found, field, value)


def test_a_stream_tells_steps_phases_and_the_end(served: Served, catalogue: Any) -> None:
    operation_id = catalogue.create("web").id
    stream = served.events(operation_id)
    name, first = next(stream)
    assert (name, first["phase"]) == ("operation", "queued")
    assert "steps" not in first
    _set(operation_id, phase="running", attempt=1)
    assert next(stream)[1]["phase"] == "running"
    _step(operation_id, "substrate", 0)
    name, step = next(stream)
    assert (name, step["name"], step["state"]) == ("step", "substrate", "begun")
    _step(operation_id, "substrate", 0, progress=0.5)
    assert next(stream)[1]["progress"] == 0.5
    _step(operation_id, "substrate", 0, state="done", progress=None)
    assert next(stream)[1]["state"] == "done"
    # a second client, or the same one back after an outage, is told all of it
    again = served.events(operation_id)
    assert [next(again)[0], next(again)[1]["name"]] == ["operation", "substrate"]
    again.close()
    _set(operation_id, phase="failed", error="the pool is full")
    name, last = next(stream)
    assert (name, last["phase"], last["error"]) == ("operation", "failed", "the pool is full")
    assert next(stream) == ("end", {"phase": "failed", "error": "the pool is full"})
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_an_ended_operation_is_told_at_once(served: Served, catalogue: Any) -> None:
    operation_id = catalogue.create("web").id
    _set(operation_id, phase="succeeded")
    assert [name for name, _ in served.events(operation_id)] == ["operation", "end"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_stream_ends_with_its_client_and_seats_are_few(served: Served, catalogue: Any) -> None:
    operation_id = catalogue.create("web").id
    seats = served.app.state.seats
    open_streams = [served.events(operation_id) for _ in range(20)]
    for stream in open_streams:
        next(stream)
    path = f"/operations/{operation_id}/events"
    refused = served.client.get(path)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "5"
    assert served.client.get("/servers").status_code == 200  # nothing else has to wait
    for stream in open_streams:
        stream.close()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while seats._taken and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not seats._taken
    _set(operation_id, phase="succeeded")
    assert served.client.get(path).status_code == 200
