"""The commands against an API of paper: what they send, print, and exit with."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
import pytest
from typer.testing import CliRunner

from innkeeper.cli import client as client_module
from innkeeper.cli import progress, watch
from innkeeper.cli.main import app
from innkeeper.services.views import OperationView
from innkeeper.settings import settings

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T00:00:02Z"
SPACE = UUID("0b54bd60-70b5-4f9a-9f2c-5f4e5a1f6a01")
PROJECT = str(uuid5(SPACE, "project"))
STEPS = ["substrate", "volume", "seed"]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFlw8I1rWwwMvXovy70WRUIIjzwPGIbpcij8JhgbJyMA"
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


@pytest.fixture
def api(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaperApi:
    paper = PaperApi()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("INNKEEPER_API_URL", "http://api.test")
    monkeypatch.delenv("INNKEEPER_PROJECT", raising=False)
    monkeypatch.setattr(client_module, "new_transport", lambda _: httpx.MockTransport(paper))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    settings.cache_clear()
    (home / "admin.key").write_text("ik_admin\n")
    paper.on("GET", "/servers", lambda _: page(a_server()))
    return paper


def run(*words: str, code: int = 0, stdin: str | None = None) -> Any:
    result = RUNNER.invoke(app, list(words), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_create_sends_what_was_asked(api: PaperApi, tmp_path: Path) -> None:
    api.on("POST", "/servers", an_operation())
    key = tmp_path / "key.pub"
    key.write_text(f"{KEY} me\n")
    data = tmp_path / "data"
    data.write_text("#cloud-config\n")
    result = run(
        *("server", "create", "web", "--image", "tiny", "--plan", "large", "--disk", "20"),
        *("--ssh-key", str(key), "--package", "nginx", "--package", "curl"),
        *("--runcmd", "echo [bold]hi", "--user-data", str(data), "--role", "web:port=80"),
        *("--static-address", "--root-password", "--description", "front", "--project", "shop"),
    )
    assert api.bodies("POST", "/servers") == [
        {
            "name": "web",
            "image": "tiny",
            "plan": "large",
            "disk_gib": 20,
            "ssh_keys": [f"{KEY} me"],
            "packages": ["nginx", "curl"],
            "runcmd": ["echo [bold]hi"],
            "user_data": "#cloud-config\n",
            "roles": [{"name": "web", "variables": {"port": 80}}],
            "static_address": True,
            "root_password": True,
            "description": "front",
        }
    ]
    sent = api.sent("POST", "/servers")[0]
    assert sent.url.params["project"] == "shop"
    assert sent.headers["Authorization"] == "Bearer ik_admin"
    assert sent.headers["Idempotency-Key"]
    assert result.stdout == "web: create accepted\n"
    assert "operation watch" in result.stderr


def test_create_body_fits_the_request_model(api: PaperApi) -> None:
    from innkeeper.domain.specs import ServerRequest  # noqa: PLC0415 - this test alone

    api.on("POST", "/servers", an_operation())
    run("create", "web")
    ServerRequest.model_validate(api.bodies("POST", "/servers")[0])


def test_create_of_several_stops_at_the_first_refusal(api: PaperApi) -> None:
    api.on(
        "POST",
        "/servers",
        [an_operation("web-1"), a_problem(403, "quota-exceeded", "1 of 1 servers in use.")],
    )
    result = run("create", "web", "--count", "5", "--idempotency-key", "k", "-o", "json", code=4)
    assert [entry["server"] for entry in json.loads(result.stdout)] == ["web-1"]
    assert [body["name"] for body in api.bodies("POST", "/servers")] == ["web-1", "web-2"]
    keys = [request.headers["Idempotency-Key"] for request in api.sent("POST", "/servers")]
    assert keys == ["k/web-1", "k/web-2"]
    assert "1 of 1 servers in use." in result.stderr


def test_create_and_wait_shows_each_step_once_and_the_way_in(api: PaperApi) -> None:
    operation = an_operation()
    path = f"/operations/{operation['id']}"
    api.on("POST", "/servers", operation)
    running = an_operation(phase="running", started_at=NOW)
    api.on("GET", path, [running, finished()])
    api.on(
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
    api.on("GET", f"/servers/{ident('web')}", a_server(root_password_available=True))
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


def test_wait_with_json_prints_the_ended_operation_and_nothing_else(api: PaperApi) -> None:
    api.on("POST", "/servers", an_operation())
    api.on("GET", "/operations/.*", finished())
    result = run("create", "web", "--wait", "-o", "json")
    assert json.loads(result.stdout) == finished()


def test_a_failed_operation_exits_with_1_and_its_reason(api: PaperApi) -> None:
    failed = finished(
        phase="failed",
        undoing=True,
        error="The pool is full.",
        steps=[a_step("substrate"), a_step("volume", "failed", detail="The pool is full.")],
    )
    api.on("POST", "/servers", an_operation())
    api.on("GET", "/operations/.*", failed)
    result = run("create", "web", "--wait", code=1)
    assert "web: create failed and is being undone: The pool is full." in result.stderr
    assert "web: create 2/3 volume failed (2.0 s): The pool is full." in result.stderr
    assert result.stderr.splitlines()[-3:] == [
        "Error: web: create failed",
        "The pool is full.",
        f"See `innkeeper operation show {failed['id']}`.",
    ]
    assert result.stdout == ""


def test_wait_falls_back_to_polling_without_a_stream(api: PaperApi) -> None:
    operation = an_operation("web", "stop")
    path = f"/operations/{operation['id']}"
    api.on("POST", f"/servers/{ident('web')}/actions/stop", operation)
    half = an_operation("web", "stop", phase="running", steps=[a_step("substrate")])
    api.on("GET", path, [operation, half, half, finished("web", "stop")])
    api.on("GET", f"/servers/{ident('web')}", a_server(status="stopped", ssh_port=None))
    result = run("server", "stop", "web", "--wait", "--agent-seconds", "5")
    assert api.bodies("POST", ".*/stop") == [{"agent_seconds": 5.0}]
    assert result.stdout == "web is stopped\n"
    assert result.stderr.count("substrate done") == 1


def test_wait_outlives_a_restart_of_the_api(api: PaperApi) -> None:
    operation = an_operation("web", "start")
    path = f"/operations/{operation['id']}"
    away = httpx.ConnectError("refused")
    api.on("POST", f"/servers/{ident('web')}/actions/start", operation)
    api.on("GET", path, [operation, *[away] * 9, finished("web", "start")])
    api.on("GET", f"{path}/events", [stream(("step", a_step("substrate"))), away])
    api.on("GET", f"/servers/{ident('web')}", a_server())
    assert run("server", "start", "web", "--wait").stdout.startswith("web is active")


def test_wait_gives_up_on_an_api_that_stays_away(
    api: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "OUTAGE_SECONDS", 0.0)
    operation = an_operation()
    api.on("GET", "/operations/.*", [operation, operation, httpx.ConnectError("refused")])
    result = run("operation", "watch", operation["id"], code=5)
    assert "make up" in result.stderr


def test_several_are_watched_with_one_request_a_round(api: PaperApi) -> None:
    names = ["a", "b", "c"]
    api.on("POST", "/servers", [an_operation(f"web-{number}") for number in (1, 2, 3)])
    done = [finished(f"web-{number}") for number in (1, 2, 3)]
    done[1] = finished("web-2", phase="failed", error="No.")
    api.on(
        "GET",
        "/operations",
        [page(done[0], an_operation("web-2"), an_operation("web-3")), page(*done)],
    )
    for entry in done:
        api.on("GET", f"/operations/{entry['id']}", entry)
        api.on("GET", f"/servers/{entry['server_id']}", a_server(entry["server"]))
    result = run("create", "web", "--count", str(len(names)), "--wait", code=1)
    assert len(api.sent("GET", "/operations")) == 2
    assert "web-1 is active" in result.stdout
    assert "web-3 is active" in result.stdout
    assert "web-2 is active" not in result.stdout
    assert "web-2: create failed" in result.stderr


@pytest.mark.parametrize(
    ("words", "method", "path", "body"),
    [
        (["start", "web"], "POST", "/actions/start", {}),
        (["stop", "web"], "POST", "/actions/stop", {}),
        (["reboot", "web"], "POST", "/actions/reboot", {"mode": "soft"}),
        (["reboot", "web", "--hard"], "POST", "/actions/reboot", {"mode": "hard"}),
        (["suspend", "web"], "POST", "/actions/suspend", {"mode": "save"}),
        (["suspend", "web", "--pause"], "POST", "/actions/suspend", {"mode": "pause"}),
        (["resume", "web"], "POST", "/actions/resume", {}),
        (["rebuild", "web", "--yes"], "POST", "/actions/rebuild", {}),
        (["rebuild", "web", "-y", "--image", "t"], "POST", "/actions/rebuild", {"image": "t"}),
        (
            ["configure", "web", "--role", "docker"],
            "POST",
            "/actions/configure",
            {"roles": [{"name": "docker", "variables": {}}]},
        ),
    ],
)
def test_verbs(
    api: PaperApi, words: list[str], method: str, path: str, body: dict[str, Any]
) -> None:
    full = f"/servers/{ident('web')}{path}"
    api.on(method, full, an_operation("web", words[0]))
    assert run("server", *words).stdout == f"web: {words[0]} accepted\n"
    assert api.bodies(method, full) == [body]


def test_delete_asks_for_consent(api: PaperApi) -> None:
    path = f"/servers/{ident('web')}"
    api.on("DELETE", path, an_operation("web", "delete"))
    result = run("server", "delete", "web", code=2)
    assert "--yes" in result.stderr
    assert api.sent("DELETE", path) == []
    assert run("server", "delete", "web", "--yes").stdout == "web: delete accepted\n"
    assert run("delete", "web", "-y").stdout == "web: delete accepted\n"


def test_a_deleted_server_is_not_asked_for(api: PaperApi) -> None:
    api.on("DELETE", f"/servers/{ident('web')}", an_operation("web", "delete"))
    api.on("GET", "/operations/.*", finished("web", "delete"))
    assert run("delete", "web", "-y", "--wait").stdout == "web is deleted\n"


def test_one_refusal_among_several_does_not_stop_the_others(api: PaperApi) -> None:
    api.on(
        "GET", "/servers", lambda r: page(a_server("b")) if r.url.params["name"] == "b" else page()
    )
    api.on("POST", f"/servers/{ident('b')}/actions/stop", an_operation("b", "stop"))
    result = run("server", "stop", "a", "b", code=3)
    assert result.stdout == "b: stop accepted\n"
    assert "no server 'a'" in result.stderr


def test_a_name_is_matched_wholly_and_an_id_directly(api: PaperApi) -> None:
    api.on("GET", "/servers", page(a_server("web-10"), a_server("web-1")))
    assert json.loads(run("server", "show", "web-1", "-o", "json").stdout) == a_server("web-1")
    api.on("GET", f"/servers/{ident('web')}", a_server())
    assert run("server", "show", ident("web")).stdout.splitlines()[0].split() == ["name", "web"]
    assert "see `innkeeper server list`" in run("server", "show", "web-2", code=3).stderr


def test_a_name_in_two_projects_is_ambiguous(api: PaperApi) -> None:
    api.on("GET", "/servers", page(a_server(), a_server(project="shop", id=ident("other"))))
    assert "add --project" in run("server", "show", "web", code=4).stderr


def test_list_passes_filters_and_prints_whole_lines(api: PaperApi) -> None:
    name = "a" * 63
    api.on("GET", "/servers", page(a_server(name), a_server("b", status="stopped", ssh_port=None)))
    result = run(
        *("list", "--status", "active", "--host", "alpha", "--image", "debian", "--name", "a"),
        *("--deleted", "--project", "shop"),
    )
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["NAME", "STATUS", "PROJECT"]
    assert lines[1].split()[:2] == [name, "active"]
    assert "192.0.2.7:2207" in lines[1]
    assert len(lines) == 3
    assert all(line == line.rstrip() for line in lines)
    query = dict(api.sent("GET", "/servers")[0].url.params)
    assert query == {
        "limit": "100",
        "status": "active",
        "host": "alpha",
        "image": "debian",
        "name": "a",
        "include_deleted": "true",
        "project": "shop",
    }


def test_what_the_api_says_cannot_steer_the_terminal(api: PaperApi) -> None:
    api.on("GET", "/servers", page(a_server(description="\x1b[31mred\x07 [bold]not bold[/bold]")))
    shown = run("server", "show", "web").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]not bold[/bold]" in shown


def test_an_answer_of_another_version_is_no_traceback(api: PaperApi) -> None:
    api.on("GET", "/servers", page({"name": "web", "id": 1}))
    assert "another version" in run("list", code=5).stderr


def test_ssh_hands_over_to_ssh(api: PaperApi, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr("os.execvp", lambda _, argv: called.append(argv))
    run("ssh", "web", "--", "uptime", "-p")
    run("server", "ssh", "web", "ls", "-l")
    run("ssh", "-l", "root", "web")
    assert called[0][-4:] == ["--", "192.0.2.7", "uptime", "-p"]
    assert called[1][-4:] == ["--", "192.0.2.7", "ls", "-l"]
    assert called[2][-4:] == ["-l", "root", "--", "192.0.2.7"]
    printed = run("ssh", "--print", "web").stdout
    assert printed.startswith("ssh -p 2207 -o UserKnownHostsFile=")


def test_ssh_to_a_server_without_forward_is_refused(api: PaperApi) -> None:
    api.on("GET", "/servers", page(a_server(ssh_port=None, status="error", fault="Broken.")))
    assert "web is error and has no forward: Broken." in run("ssh", "web", code=4).stderr


def test_password_is_printed_alone(api: PaperApi) -> None:
    api.on("POST", f"/servers/{ident('web')}/root-password", {"root_password": "canary"})
    assert run("server", "password", "web").stdout == "canary\n"


def test_operations(api: PaperApi) -> None:
    operation = an_operation(
        phase="running",
        started_at=NOW,
        steps=[a_step("substrate"), a_step("volume", "begun", tries=3, detail="copying")],
    )
    api.on("GET", "/operations", page(operation))
    api.on("GET", f"/operations/{operation['id']}", operation)
    listed = run("operation", "list", "--server", "web", "--phase", "running").stdout
    assert "1/3 volume" in listed
    assert api.sent("GET", "/operations")[0].url.params["server_id"] == ident("web")
    shown = run("operation", "show", operation["id"]).stdout
    assert re.search(r"2/3 +volume +begun .* in 3 tries: copying", shown)
    run("operation", "show", "not-an-id", code=2)


def test_cancel_that_worked_and_cancel_that_came_too_late(api: PaperApi) -> None:
    operation = an_operation(cancel_requested=True)
    path = f"/operations/{operation['id']}"
    api.on("POST", f"{path}/cancel", operation)
    assert run("operation", "cancel", operation["id"]).stdout == "web: cancel of create requested\n"
    api.on("GET", path, finished(phase="cancelled"))
    assert "cancelled" in run("operation", "cancel", operation["id"], "--wait").stdout
    api.on("GET", path, finished())
    api.on("GET", f"/servers/{ident('web')}", a_server())
    run("operation", "cancel", operation["id"], "--wait", code=1)


def a_host(**changes: Any) -> dict[str, Any]:
    return {
        "id": ident("alpha"),
        "name": "alpha",
        "uri": "test:///default",
        "channel": "simulated:alpha",
        "edge_address": "127.0.0.1",
        "pool_path": "/pool",
        "virt_type": "test",
        "vcpus": 8,
        "memory_mib": 16384,
        "disk_gib": 200,
        "cpu_overcommit": 2.0,
        "memory_overcommit": 1.0,
        "enabled": True,
        "reachable": True,
        "reserved_vcpus": 3,
        "reserved_memory_mib": 512,
        "reserved_disk_gib": 5,
        "servers": 3,
        "created_at": NOW,
    } | changes


def test_hosts(api: PaperApi) -> None:
    path = f"/hosts/{ident('alpha')}"
    api.on("POST", "/hosts", a_host())
    api.on("GET", "/hosts", [[a_host()]])
    api.on("PATCH", path, a_host(enabled=False))
    api.on("DELETE", path, httpx.Response(204))
    run("host", "add", "alpha", "test:///default", "--edge-address", "127.0.0.1", "--vcpus", "4")
    assert api.bodies("POST", "/hosts") == [
        {"name": "alpha", "uri": "test:///default", "edge_address": "127.0.0.1", "vcpus": 4}
    ]
    row = run("host", "list").stdout.splitlines()[1].split()
    assert row[:5] == ["alpha", "up", "3", "3/16", "512/16384"]
    assert "disabled" in run("host", "disable", "alpha").stdout
    run("host", "enable", "alpha")
    assert api.bodies("PATCH", path) == [{"enabled": False}, {"enabled": True}]
    assert run("host", "remove", "alpha").stdout == "alpha is removed\n"
    run("host", "show", "beta", code=3)


def an_image(**changes: Any) -> dict[str, Any]:
    return {
        "id": ident("debian"),
        "name": "debian",
        "source": "/images/debian.qcow2",
        "phase": "pending",
        "progress": 0.0,
        "error": None,
        "expected_sha256": None,
        "sha256": None,
        "size_bytes": None,
        "virtual_size_bytes": None,
        "login_user": "debian",
        "created_at": NOW,
    } | changes


def test_image_import_waits_for_ready(api: PaperApi, tmp_path: Path) -> None:
    api.on("POST", "/images", an_image())
    ready = an_image(phase="ready", progress=1.0, sha256="5f" * 32, size_bytes=3 << 20)
    api.on("GET", f"/images/{ident('debian')}", [an_image(), an_image(phase="importing"), ready])
    result = run("image", "import", "debian", str(tmp_path / "x.qcow2"), "--sha256", "ab", "-w")
    assert result.stderr.splitlines() == [
        "debian: pending",
        "debian: importing",
        "debian: ready",
    ]
    assert "3 MiB" in result.stdout
    body = api.bodies("POST", "/images")[0]
    assert body["source"] == str(tmp_path / "x.qcow2")
    run("image", "import", "debian", "https://example.org/x.qcow2")
    assert api.bodies("POST", "/images")[1]["source"] == "https://example.org/x.qcow2"


def test_image_that_fails_exits_with_1(api: PaperApi) -> None:
    api.on("POST", "/images", an_image())
    api.on("GET", "/images/.*", an_image(phase="failed", error="The checksum differs."))
    result = run("image", "import", "debian", "https://example.org/x", "--wait", code=1)
    assert "The checksum differs." in result.stderr


def test_images(api: PaperApi) -> None:
    api.on("GET", "/images", [[an_image()]])
    api.on("DELETE", f"/images/{ident('debian')}", httpx.Response(204))
    assert "pending" in run("image", "list").stdout
    assert json.loads(run("image", "show", "debian", "-o", "json").stdout) == an_image()
    run("image", "delete", "debian", code=2)
    assert run("image", "delete", "debian", "-y").stdout == "debian is deleted\n"


def test_plans_projects_keys_roles(api: PaperApi) -> None:
    plan = {
        "id": ident("small"),
        "name": "small",
        "vcpus": 1,
        "memory_mib": 1024,
        "disk_gib": 10,
        "price_per_hour": 0.01,
    }
    project = {"id": PROJECT, "name": "shop", "created_at": NOW}
    quota = {
        "servers": 5,
        "vcpus": -1,
        "memory_mib": 10,
        "disk_gib": 20,
        "used_servers": 2,
        "used_vcpus": 2,
        "used_memory_mib": 3,
        "used_disk_gib": 4,
    }
    key = {
        "id": ident("key"),
        "name": "ci",
        "role": "user",
        "project_id": PROJECT,
        "created_at": NOW,
        "last_used_at": None,
        "revoked_at": None,
    }
    api.on("GET", "/plans", [[plan]])
    api.on("POST", "/plans", plan)
    api.on("GET", "/projects", [[project]])
    api.on("POST", "/projects", project)
    api.on("GET", f"/projects/{PROJECT}/quota", quota)
    api.on("PUT", f"/projects/{PROJECT}/quota", quota)
    api.on("GET", "/keys", [[key]])
    api.on("POST", "/keys", {"key": "ik_canary", **key})
    api.on("DELETE", f"/keys/{ident('key')}", httpx.Response(204))
    option = {"name": "users", "type": "list", "description": "Who.", "required": False}
    role = {"name": "docker", "description": "Containers.", "options": [option]}
    api.on("GET", "/roles", page(role))
    assert run("plan", "list").stdout.splitlines()[1].split()[0] == "small"
    run("plan", "create", "small", "--vcpus", "1", "--memory-mib", "1", "--disk-gib", "1")
    assert "shop" in run("project", "list").stdout
    assert run("project", "create", "shop").stdout == "shop is created\n"
    assert api.bodies("POST", "/projects") == [{"name": "shop"}]
    shown = run("project", "quota", "set", "shop", "--servers", "5").stdout
    assert re.search(r"servers +2 +5\n.*vcpus +2 +none", shown)
    assert api.bodies("PUT", ".*/quota") == [{"servers": 5}]
    run("project", "quota", "set", "shop", code=2)
    run("project", "quota", "show", "shop")
    assert "never" in run("key", "list").stdout
    created = run("key", "create", "ci", "--role", "user", "--project", "shop")
    assert created.stdout == "ik_canary\n"
    assert "ik_canary" not in created.stderr
    revoked = key | {"id": ident("old"), "revoked_at": NOW}
    api.on("GET", "/keys", [[revoked, key]])
    assert run("key", "revoke", "ci", "-y").stdout == "ci is revoked\n"
    api.on("GET", "/keys", [[key, key | {"id": ident("twin")}]])
    assert "by id" in run("key", "revoke", "ci", "-y", code=4).stderr
    assert "docker" in run("role", "list").stdout
    assert re.search(r"users +list +null +Who", run("role", "show", "docker").stdout)


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
    api: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(range(2))

    def nap(_: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", nap)
    api.on("GET", "/events", [page(an_event(2), an_event(1)), page(), page(an_event(3))])
    result = RUNNER.invoke(app, ["event", "list", "--follow", "-o", "json"])
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1, 2, 3]
    asked = [request.url.params.get("after_id") for request in api.sent("GET", "/events")]
    assert asked == [None, "2", "2"]
    assert result.exit_code == 130


def test_events_as_lines(api: PaperApi) -> None:
    api.on("GET", "/events", page(an_event(1)))
    assert re.search(r"server.create.done +admin +status=active", run("event", "list").stdout)


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (a_problem(401, "unauthenticated", "The key is unknown."), 6, "The key is unknown."),
        (a_problem(403, "forbidden", "Only for admins."), 6, "Only for admins."),
        (a_problem(500, "internal-error", "See the log."), 5, "See the log."),
        (httpx.ConnectError("refused"), 5, "make up"),
        (httpx.ReadTimeout("slow"), 5, "does not answer in time"),
    ],
)
def test_failures_are_sentences_on_stderr(
    api: PaperApi, answer: Answer, code: int, words: str
) -> None:
    api.on("GET", "/servers", answer)
    result = run("server", "list", code=code)
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "address", ["localhost:8480", "ftp://x", "http://", "http://a b", "http://[", ""]
)
def test_an_address_that_is_none(
    api: PaperApi, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("INNKEEPER_API_URL", address)
    if address:
        assert "INNKEEPER_API_URL" in run("list", code=2).stderr
    else:
        run("list")


def test_key_of_the_environment_wins(api: PaperApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNKEEPER_API_KEY", "ik_mine")
    run("list")
    assert api.requests[-1].headers["Authorization"] == "Bearer ik_mine"
    monkeypatch.setenv("INNKEEPER_API_KEY", "ik_\u00e9")
    run("list", code=6)


def test_without_any_key_none_is_sent(api: PaperApi, home: Path) -> None:
    (home / "admin.key").unlink()
    run("list")
    assert "Authorization" not in api.requests[-1].headers


def test_wrong_usage_exits_with_2(api: PaperApi) -> None:
    run("server", "nonsense", code=2)
    run("nonsense", code=2)
    assert "Did you mean" in run("servr", code=2).stderr
    run("create", code=2)
    run("create", "web", "--count", "0", code=2)
    run("list", "-o", "xml", code=2)
    assert api.requests == []


def test_help_documents_exit_codes() -> None:
    text = run("--help").stdout
    for word in ("Exit codes", "not found", "refused", "INNKEEPER_API_KEY"):
        assert word in text


def test_completion_offers_commands_and_servers(
    api: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(line: str) -> str:
        variables = {"_INNKEEPER_COMPLETE": "complete_bash", "COMP_WORDS": line}
        variables["COMP_CWORD"] = str(len(line.split(" ")) - 1)
        return RUNNER.invoke(app, [], env=variables, prog_name="innkeeper").stdout

    monkeypatch.setattr(
        "httpx.get",
        lambda url, **rest: httpx.Client(transport=httpx.MockTransport(api)).get(url, **rest),
    )
    assert "server" in complete("innkeeper ser").split()
    assert {"start", "stop"} <= set(complete("innkeeper server st").split())
    assert complete("innkeeper server show w").split() == ["web"]
    api.on("GET", "/servers", httpx.ConnectError("refused"))
    assert complete("innkeeper server show w").strip() == ""


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
    api: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    api.on("POST", "/servers", an_operation())
    api.on("GET", "/operations/[^/]*", an_operation())
    monkeypatch.setattr("time.sleep", interrupt)
    result = run("create", "web", "--wait", code=130)
    assert f"innkeeper operation watch {ident('create web')}" in result.stderr
