"""An API of paper: what it answers, what was sent to it, and the commands run against it."""

import json
import re
from typing import Any
from uuid import UUID, uuid5

import httpx
from typer.testing import CliRunner

from innkeeper.cli.main import app

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:00:02Z"
SPACE = UUID("0b54bd60-70b5-4f9a-9f2c-5f4e5a1f6a01")
PROJECT = str(uuid5(SPACE, "project"))
STEPS = ["substrate", "volume", "seed"]
RUNNER = CliRunner()


def ident(name: str) -> str:
    return str(uuid5(SPACE, name))


def a_server(name: str = "web", **changes: Any) -> dict[str, Any]:
    return {
        "id": ident(name),
        "name": name,
        "project_id": PROJECT,
        "project": "default",
        "status": "active",
        "operation_id": None,
        "host": "alpha",
        "image": "debian",
        "plan": "small",
        "vcpus": 1,
        "memory_mib": 1024,
        "disk_gib": 10,
        "address": "10.64.0.5",
        "mac": "52:54:00:00:00:01",
        "edge_address": "192.0.2.7",
        "ssh_port": 2207,
        "ssh_user": "debian",
        "host_key": "ssh-ed25519 AAAAC3Nz root@web",
        "fault": None,
        "description": "",
        "root_password_available": False,
        "allowed": ["stop", "delete"],
        "created_at": NOW,
        "updated_at": NOW,
        "deleted_at": None,
    } | changes


def a_step(name: str, state: str = "done", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ordinal": STEPS.index(name),
        "state": state,
        "attempt": 1,
        "tries": 1,
        "detail": None,
        "progress": None,
        "begun_at": NOW,
        "ended_at": LATER if state in {"done", "failed"} else None,
    } | changes


def an_operation(server: str = "web", verb: str = "create", **changes: Any) -> dict[str, Any]:
    return {
        "id": ident(f"{verb} {server}"),
        "project_id": PROJECT,
        "server_id": ident(server),
        "server": server,
        "verb": verb,
        "phase": "queued",
        "undoing": False,
        "attempt": 0,
        "actor": "admin",
        "flow_run_id": None,
        "cancel_requested": False,
        "verdict": None,
        "error": None,
        "created_at": NOW,
        "started_at": None,
        "ended_at": None,
        "step_names": STEPS,
        "steps": [],
    } | changes


def finished(server: str = "web", verb: str = "create", **changes: Any) -> dict[str, Any]:
    ended = {
        "phase": "succeeded",
        "ended_at": LATER,
        "started_at": NOW,
        "steps": [a_step(name) for name in STEPS],
    }
    return an_operation(server, verb, **(ended | changes))


def page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(items), "next_cursor": None}


def a_problem(status: int, slug: str, detail: str) -> httpx.Response:
    return httpx.Response(
        status,
        json={"type": f"https://innkeeper.dev/problems/{slug}", "title": slug, "detail": detail},
    )


Answer = Any


class PaperApi:
    """Answers from a table; a list is answered entry by entry, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}
        self.requests: list[httpx.Request] = []

    def on(self, method: str, pattern: str, answer: Answer) -> None:
        self.answers[method, pattern] = answer

    def bodies(self, method: str, pattern: str) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.sent(method, pattern)]

    def sent(self, method: str, pattern: str) -> list[httpx.Request]:
        return [
            request
            for request in self.requests
            if request.method == method and re.fullmatch(f"/api/v1{pattern}", request.url.path)
        ]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        for (method, pattern), answer in self.answers.items():
            if method == request.method and re.fullmatch(f"/api/v1{pattern}", request.url.path):
                return self._response(answer, request)
        return a_problem(404, "not-found", f"Nothing at {request.method} {request.url.path}.")

    def _response(self, answer: Answer, request: httpx.Request) -> httpx.Response:
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)


def stream(*events: tuple[str, dict[str, Any]]) -> httpx.Response:
    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


def run(*words: str, code: int = 0, stdin: str | None = None) -> Any:
    result = RUNNER.invoke(app, list(words), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result
