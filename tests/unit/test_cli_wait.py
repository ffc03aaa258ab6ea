"""Commands that wait for their operations: by stream, by polling, through an outage."""

import json
import re

import httpx
import pytest
from paper_api import (
    NOW,
    PaperApi,
    a_server,
    a_step,
    an_operation,
    finished,
    ident,
    page,
    run,
    stream,
)

from innkeeper.cli import progress, watch
from innkeeper.services.views import OperationView


def test_create_and_wait_shows_each_step_once_and_the_way_in(paper: PaperApi) -> None:
    operation = an_operation()
    path = f"/operations/{operation['id']}"
    paper.on("POST", "/servers", operation)
    running = an_operation(phase="running", started_at=NOW)
    paper.on("GET", path, [running, finished()])
    paper.on(
        "GET",
        f"{path}/events",
        stream(
            ("step", a_step("substrate", "begun")),
            ("step", a_step("substrate", detail="nothing to change")),
            ("step", a_step("volume", "begun", progress=0.5)),
            ("step", a_step("volume")),
            ("operation", {k: v for k, v in running.items() if k != "steps"}),
            ("end", {"phase": "succeeded"}),
        ),
    )
    paper.on("GET", f"/servers/{ident('web')}", a_server(root_password_available=True))
    result = run("create", "web", "--wait")
    assert result.stderr.splitlines()[1:] == [
        "web: create 1/3 substrate done (2.0 s): nothing to change",
        "web: create 2/3 volume done (2.0 s)",
        "web: create 3/3 seed done (2.0 s)",
        "web: create succeeded (2.0 s)",
        "  root password, shown once: innkeeper server password web",
    ]
    assert result.stdout.splitlines() == [
        "web is active",
        "  log in: innkeeper server ssh web",
        "  or:     ssh -p 2207 debian@192.0.2.7",
    ]


def test_wait_with_json_prints_the_ended_operation_and_nothing_else(paper: PaperApi) -> None:
    paper.on("POST", "/servers", an_operation())
    paper.on("GET", "/operations/.*", finished())
    result = run("create", "web", "--wait", "-o", "json")
    assert json.loads(result.stdout) == finished()


def test_a_failed_operation_exits_with_1_and_its_reason(paper: PaperApi) -> None:
    failed = finished(
        phase="failed",
        undoing=True,
        error="The pool is full.",
        steps=[a_step("substrate"), a_step("volume", "failed", detail="The pool is full.")],
    )
    paper.on("POST", "/servers", an_operation())
    paper.on("GET", "/operations/.*", failed)
    result = run("create", "web", "--wait", code=1)
    assert "web: create failed and is being undone: The pool is full." in result.stderr
    assert "web: create 2/3 volume failed (2.0 s): The pool is full." in result.stderr
    assert result.stderr.splitlines()[-3:] == [
        "Error: web: create failed",
        "The pool is full.",
        f"See `innkeeper operation show {failed['id']}`.",
    ]
    assert result.stdout == ""


def test_wait_falls_back_to_polling_without_a_stream(paper: PaperApi) -> None:
    operation = an_operation("web", "stop")
    path = f"/operations/{operation['id']}"
    paper.on("POST", f"/servers/{ident('web')}/actions/stop", operation)
    half = an_operation("web", "stop", phase="running", steps=[a_step("substrate")])
    paper.on("GET", path, [operation, half, half, finished("web", "stop")])
    paper.on("GET", f"/servers/{ident('web')}", a_server(status="stopped", ssh_port=None))
    result = run("server", "stop", "web", "--wait", "--agent-seconds", "5")
    assert paper.bodies("POST", ".*/stop") == [{"agent_seconds": 5.0}]
    assert result.stdout == "web is stopped\n"
    assert result.stderr.count("substrate done") == 1


def test_wait_outlives_a_restart_of_the_api(paper: PaperApi) -> None:
    operation = an_operation("web", "start")
    path = f"/operations/{operation['id']}"
    away = httpx.ConnectError("refused")
    paper.on("POST", f"/servers/{ident('web')}/actions/start", operation)
    paper.on("GET", path, [operation, *[away] * 9, finished("web", "start")])
    paper.on("GET", f"{path}/events", [stream(("step", a_step("substrate"))), away])
    paper.on("GET", f"/servers/{ident('web')}", a_server())
    assert run("server", "start", "web", "--wait").stdout.startswith("web is active")


def test_wait_gives_up_on_an_api_that_stays_away(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "OUTAGE_SECONDS", 0.0)
    operation = an_operation()
    paper.on("GET", "/operations/.*", [operation, operation, httpx.ConnectError("refused")])
    result = run("operation", "watch", operation["id"], code=5)
    assert "make up" in result.stderr


def test_several_are_watched_with_one_request_a_round(paper: PaperApi) -> None:
    names = ["a", "b", "c"]
    paper.on("POST", "/servers", [an_operation(f"web-{number}") for number in (1, 2, 3)])
    done = [finished(f"web-{number}") for number in (1, 2, 3)]
    done[1] = finished("web-2", phase="failed", error="No.")
    paper.on(
        "GET",
        "/operations",
        [page(done[0], an_operation("web-2"), an_operation("web-3")), page(*done)],
    )
    for entry in done:
        paper.on("GET", f"/operations/{entry['id']}", entry)
        paper.on("GET", f"/servers/{entry['server_id']}", a_server(entry["server"]))
    result = run("create", "web", "--count", str(len(names)), "--wait", code=1)
    assert len(paper.sent("GET", "/operations")) == 2
    assert "web-1 is active" in result.stdout
    assert "web-3 is active" in result.stdout
    assert "web-2 is active" not in result.stdout
    assert "web-2: create failed" in result.stderr


def test_bars_take_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    detail = "[red]copying[/red] \x1b[2J 3 of 4"
    running = a_step("volume", "begun", progress=0.42, detail=detail)
    bars = progress.Bars()
    for state in (
        an_operation("a"),
        an_operation("a", phase="running"),
        an_operation("a", phase="running", steps=[a_step("substrate"), running]),
        finished("b", phase="failed"),
        finished("c"),
    ):
        bars.show(OperationView.model_validate(state))
    bars.close()
    lines = capsys.readouterr().err.splitlines()
    assert re.search(r"a create .* 1/3 .* volume 42% · \[red\]copying\[/red\] \ufffd\[2J", lines[0])
    assert re.search(r"b create .* 3/3 .* failed", lines[1])
    assert re.search(r"c create .* 3/3 .* succeeded", lines[2])


def test_leaving_a_wait_says_how_to_come_back(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    paper.on("POST", "/servers", an_operation())
    paper.on("GET", "/operations/[^/]*", an_operation())
    monkeypatch.setattr("time.sleep", interrupt)
    result = run("create", "web", "--wait", code=130)
    assert f"innkeeper operation watch {ident('create web')}" in result.stderr
