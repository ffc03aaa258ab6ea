"""The commands for operations and events."""

import json
import re
from typing import Any

import pytest
from paper_api import (
    NOW,
    PROJECT,
    RUNNER,
    PaperApi,
    a_server,
    a_step,
    an_operation,
    finished,
    ident,
    page,
    run,
)

from innkeeper.cli.main import app


def test_operations(paper: PaperApi) -> None:
    operation = an_operation(
        phase="running",
        started_at=NOW,
        steps=[a_step("substrate"), a_step("volume", "begun", tries=3, detail="copying")],
    )
    paper.on("GET", "/operations", page(operation))
    paper.on("GET", f"/operations/{operation['id']}", operation)
    listed = run("operation", "list", "--server", "web", "--phase", "running").stdout
    assert "1/3 volume" in listed
    assert paper.sent("GET", "/operations")[0].url.params["server_id"] == ident("web")
    shown = run("operation", "show", operation["id"]).stdout
    assert re.search(r"2/3 +volume +begun .* in 3 tries: copying", shown)
    run("operation", "show", "not-an-id", code=2)


def test_cancel_that_worked_and_cancel_that_came_too_late(paper: PaperApi) -> None:
    operation = an_operation(cancel_requested=True)
    path = f"/operations/{operation['id']}"
    paper.on("POST", f"{path}/cancel", operation)
    assert run("operation", "cancel", operation["id"]).stdout == "web: cancel of create requested\n"
    paper.on("GET", path, finished(phase="cancelled"))
    assert "cancelled" in run("operation", "cancel", operation["id"], "--wait").stdout
    paper.on("GET", path, finished())
    paper.on("GET", f"/servers/{ident('web')}", a_server())
    run("operation", "cancel", operation["id"], "--wait", code=1)


def an_event(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "at": NOW,
        "actor": "admin",
        "kind": "server.create.done",
        "project_id": PROJECT,
        "server_id": None,
        "operation_id": None,
        "reason": "",
        "before": None,
        "after": {"status": "active"},
    }


def test_events_are_followed_without_gap_or_repetition(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(range(2))

    def nap(_: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    paper.on("GET", "/events", [page(an_event(2), an_event(1)), page(), page(an_event(3))])
    result = RUNNER.invoke(app, ["event", "list", "--follow", "-o", "json"])
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1, 2, 3]
    asked = [request.url.params.get("after_id") for request in paper.sent("GET", "/events")]
    assert asked == [None, "2", "2"]
    assert result.exit_code == 130


def test_events_as_lines(paper: PaperApi) -> None:
    paper.on("GET", "/events", page(an_event(1)))
    assert re.search(r"server.create.done +admin +status=active", run("event", "list").stdout)
