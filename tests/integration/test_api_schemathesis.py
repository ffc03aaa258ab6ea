"""Schemathesis over the whole OpenAPI: nothing that it invents ends in a 5xx or undocumented.

It talks HTTP to a real server and meets ids of things that exist about as often as ones that do
not. Bounded in examples, so that a slow machine tests as much as a fast one.
"""

import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
import uvicorn
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from sqlalchemy import update

from innkeeper import dispatch
from innkeeper.api.app import create_app
from innkeeper.api.rates import Rates
from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.errors import HostUnreachable
from innkeeper.hypervisor.connection import connect
from innkeeper.services import hosts, images, keys, plans, projects

EXAMPLES = 4
SCENARIOS = 6


@dataclass(frozen=True)
class Subject:
    """A served API, a key to it, and ids of what exists."""

    url: str
    key: str
    known: dict[str, list[str]]


@pytest.fixture
def subject(catalogue: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    def only_simulated(uri: str) -> Any:
        if uri != "test:///default":
            raise HostUnreachable(f"{uri} is not for tests")
        return connect(uri)

    monkeypatch.setattr("innkeeper.services.probe.connect", only_simulated)
    monkeypatch.setattr("innkeeper.api.health._prefect_answers", lambda: True)
    monkeypatch.setattr(dispatch, "dispatch", lambda _operation: None)
    monkeypatch.setattr(dispatch, "dispatch_image", lambda *_: None)
    catalogue.set_quota(servers=-1, vcpus=-1, memory_mib=-1, disk_gib=-1)
    known = _populate(catalogue)
    app = create_app()
    app.state.gate.rates = Rates("1000000/second", "1000000/second")
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_keep_alive=120))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Subject(url, keys.create("fuzz", "admin")[1], known)
        finally:
            server.should_exit = True
            thread.join(30)


def _populate(catalogue: Any) -> dict[str, list[str]]:
    found = defaultdict(list)
    for status in ("active", "stopped", "error", "requested"):
        operation = catalogue.create(status)
        found["operation_id"].append(operation.id)
        found["server_id"].append(operation.server_id)
        if status != "requested":
            with transaction() as session:
                chosen = update(Server).where(Server.id == operation.server_id)
                session.execute(chosen.values(status=status, operation_id=None))
    found["host_id"] = [host.id for host in hosts.all()]
    found["image_id"] = [image.id for image in images.all()]
    found["plan_id"] = [plan.id for plan in plans.all()]
    found["project_id"] = [project.id for project in projects.all()]
    found["key_id"] = [keys.create("spare", "operator")[0].id]
    return {name: [str(value) for value in values] for name, values in found.items()}


def _config(subject: Subject) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": 20,
            "max-stream-events": 1,
            "request-timeout": 20,
            "continue-on-failure": True,
            "headers": {"Authorization": f"Bearer {subject.key}"},
            "generation": {"max-examples": EXAMPLES, "database": "none", "no-shrink": True},
            "dictionaries": {name: {"values": ids} for name, ids in subject.known.items()},
            "parameters": {
                f"path.{name}": {"dictionary": name, "probability": 0.5} for name in subject.known
            },
            "checks": {
                "positive_data_acceptance": {"enabled": False},  # unknown names are refused
                "missing_required_header": {"enabled": False},
                "ignored_auth": {"enabled": False},
            },
            "phases": {"stateful": {"generation": {"max-examples": SCENARIOS}}},
        }
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_invented_breaks_the_api(subject: Subject) -> None:
    schema = schemathesis.openapi.from_url(f"{subject.url}/openapi.json", config=_config(subject))
    failures: dict[str, str] = {}
    answers: dict[str, Counter[int]] = defaultdict(Counter)
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.FatalError), event
        if isinstance(event, events.NonFatalError):
            failures[f"error {event.label}"] = str(event.value)
        if not isinstance(event, events.ScenarioFinished):
            continue
        for case_id, interaction in event.recorder.interactions.items():
            if interaction.response is not None:
                label = event.recorder.cases[case_id].value.operation.label
                answers[label][interaction.response.status_code] += 1
        for nodes in event.recorder.checks.values():
            for node in nodes:
                if node.failure_info is not None:
                    failure = node.failure_info.failure
                    failures[f"{failure.operation}: {failure.title}"] = (
                        f"{failure.message}\n{node.failure_info.code_sample}"
                    )
    for label, counts in sorted(answers.items()):
        print(label, dict(counts))  # noqa: T201 - shown when the test fails
    assert not failures, "\n\n".join(f"{name}\n{text}" for name, text in failures.items())
    assert sum(sum(counts.values()) for counts in answers.values()) > 1000
