"""The commands for servers: create, verbs, list, show, the ways in."""

import json
from pathlib import Path
from typing import Any

import pytest
from paper_api import PaperApi, a_problem, a_server, an_operation, finished, ident, page, run

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFlw8I1rWwwMvXovy70WRUIIjzwPGIbpcij8JhgbJyMA"


def test_create_sends_what_was_asked(paper: PaperApi, tmp_path: Path) -> None:
    paper.on("POST", "/servers", an_operation())
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
    assert paper.bodies("POST", "/servers") == [
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
    sent = paper.sent("POST", "/servers")[0]
    assert sent.url.params["project"] == "shop"
    assert sent.headers["Authorization"] == "Bearer ik_admin"
    assert sent.headers["Idempotency-Key"]
    assert result.stdout == "web: create accepted\n"
    assert "operation watch" in result.stderr


def test_create_body_fits_the_request_model(paper: PaperApi) -> None:
    from innkeeper.domain.specs import ServerRequest  # noqa: PLC0415 - this test alone

    paper.on("POST", "/servers", an_operation())
    run("create", "web")
    ServerRequest.model_validate(paper.bodies("POST", "/servers")[0])


def test_create_of_several_stops_at_the_first_refusal(paper: PaperApi) -> None:
    paper.on(
        "POST",
        "/servers",
        [an_operation("web-1"), a_problem(403, "quota-exceeded", "1 of 1 servers in use.")],
    )
    result = run("create", "web", "--count", "5", "--idempotency-key", "k", "-o", "json", code=4)
    assert [entry["server"] for entry in json.loads(result.stdout)] == ["web-1"]
    assert [body["name"] for body in paper.bodies("POST", "/servers")] == ["web-1", "web-2"]
    keys = [request.headers["Idempotency-Key"] for request in paper.sent("POST", "/servers")]
    assert keys == ["k/web-1", "k/web-2"]
    assert "1 of 1 servers in use." in result.stderr


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
        (["shelve", "web"], "POST", "/actions/shelve", {}),
        (
            ["shelve", "web", "--acpi-seconds", "5"],
            "POST",
            "/actions/shelve",
            {"acpi_seconds": 5.0},
        ),
        (["unshelve", "web"], "POST", "/actions/unshelve", {}),
        (["unshelve", "web", "--host", "b"], "POST", "/actions/unshelve", {"host": "b"}),
        (
            ["migrate", "web"],
            "POST",
            "/actions/migrate",
            {"mode": "auto", "allow_power_cycle": False},
        ),
        (
            ["migrate", "web", "--host", "b", "--cold", "--allow-power-cycle"],
            "POST",
            "/actions/migrate",
            {"mode": "cold", "allow_power_cycle": True, "host": "b"},
        ),
        (["flatten", "web"], "POST", "/actions/flatten", {}),
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
    paper: PaperApi, words: list[str], method: str, path: str, body: dict[str, Any]
) -> None:
    full = f"/servers/{ident('web')}{path}"
    paper.on(method, full, an_operation("web", words[0]))
    assert run("server", *words).stdout == f"web: {words[0]} accepted\n"
    assert paper.bodies(method, full) == [body]


def test_delete_asks_for_consent(paper: PaperApi) -> None:
    path = f"/servers/{ident('web')}"
    paper.on("DELETE", path, an_operation("web", "delete"))
    result = run("server", "delete", "web", code=2)
    assert "--yes" in result.stderr
    assert paper.sent("DELETE", path) == []
    assert run("server", "delete", "web", "--yes").stdout == "web: delete accepted\n"
    assert run("delete", "web", "-y").stdout == "web: delete accepted\n"


def test_a_deleted_server_is_not_asked_for(paper: PaperApi) -> None:
    paper.on("DELETE", f"/servers/{ident('web')}", an_operation("web", "delete"))
    paper.on("GET", "/operations/.*", finished("web", "delete"))
    assert run("delete", "web", "-y", "--wait").stdout == "web is deleted\n"


def test_one_refusal_among_several_does_not_stop_the_others(paper: PaperApi) -> None:
    paper.on(
        "GET", "/servers", lambda r: page(a_server("b")) if r.url.params["name"] == "b" else page()
    )
    paper.on("POST", f"/servers/{ident('b')}/actions/stop", an_operation("b", "stop"))
    result = run("server", "stop", "a", "b", code=3)
    assert result.stdout == "b: stop accepted\n"
    assert "no server 'a'" in result.stderr


def test_a_name_is_matched_wholly_and_an_id_directly(paper: PaperApi) -> None:
    paper.on("GET", "/servers", page(a_server("web-10"), a_server("web-1")))
    assert json.loads(run("server", "show", "web-1", "-o", "json").stdout) == a_server("web-1")
    paper.on("GET", f"/servers/{ident('web')}", a_server())
    assert run("server", "show", ident("web")).stdout.splitlines()[0].split() == ["name", "web"]
    assert "see `innkeeper server list`" in run("server", "show", "web-2", code=3).stderr


def test_a_name_in_two_projects_is_ambiguous(paper: PaperApi) -> None:
    paper.on("GET", "/servers", page(a_server(), a_server(project="shop", id=ident("other"))))
    assert "add --project" in run("server", "show", "web", code=4).stderr


def test_list_passes_filters_and_prints_whole_lines(paper: PaperApi) -> None:
    name = "a" * 63
    paper.on(
        "GET", "/servers", page(a_server(name), a_server("b", status="stopped", ssh_port=None))
    )
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
    query = dict(paper.sent("GET", "/servers")[0].url.params)
    assert query == {
        "limit": "100",
        "status": "active",
        "host": "alpha",
        "image": "debian",
        "name": "a",
        "include_deleted": "true",
        "project": "shop",
    }


def test_ssh_hands_over_to_ssh(paper: PaperApi, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_ssh_to_a_server_without_forward_is_refused(paper: PaperApi) -> None:
    paper.on("GET", "/servers", page(a_server(ssh_port=None, status="error", fault="Broken.")))
    assert "web is error and has no forward: Broken." in run("ssh", "web", code=4).stderr


def test_password_is_printed_alone(paper: PaperApi) -> None:
    paper.on("POST", f"/servers/{ident('web')}/root-password", {"root_password": "canary"})
    assert run("server", "password", "web").stdout == "canary\n"
