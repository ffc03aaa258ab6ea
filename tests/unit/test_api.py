"""The API's endpoints over the real services, on SQLite and PostgreSQL."""

import json
from typing import Any
from uuid import uuid4

import pytest
from api_client import V1, Api, problem
from sqlalchemy import update

from innkeeper import dispatch
from innkeeper.db.models import Operation
from innkeeper.db.session import DatabaseUnavailable, transaction

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_server_is_accepted_and_started(api: Api, started: list[Any]) -> None:
    answer = api.create()
    assert answer.status_code == 202, answer.text
    operation = answer.json()
    assert answer.headers["location"] == f"{V1}/operations/{operation['id']}"
    assert api("GET", f"/operations/{operation['id']}").json()["phase"] == "queued"
    server = api("GET", f"/servers/{operation['server_id']}").json()
    assert server["name"] == "web"
    assert server["project"] == "default"
    listed = api("GET", "/servers").json()
    assert [entry["id"] for entry in listed["items"]] == [server["id"]]
    api.app.state.starter.close()
    assert [str(entry) for entry in started] == [operation["id"]]


@sqlite
def test_a_failing_dispatch_never_fails_the_request(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_operation: Any) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(dispatch, "dispatch", broken)
    assert api.create().status_code == 202


def test_pages_are_complete_and_stable(api: Api) -> None:
    names = [f"s{number}" for number in range(7)]
    for name in names:
        assert api.create(name).status_code == 202
    seen: list[str] = []
    cursor = None
    while True:
        page = api("GET", "/servers", params={"limit": 3} | ({"cursor": cursor} if cursor else {}))
        seen += [entry["name"] for entry in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
        api.create(f"late-{len(seen)}")  # newer rows do not shift older pages
    assert seen == names[::-1]
    events: list[int] = []
    cursor = None
    while True:
        page = api("GET", "/events", params={"limit": 4} | ({"cursor": cursor} if cursor else {}))
        events += [entry["id"] for entry in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert events == sorted(set(events), reverse=True)
    assert len(events) >= 9
    onward = api("GET", "/events", params={"after_id": events[-1], "limit": 2}).json()
    assert [entry["id"] for entry in onward["items"]] == events[-2:-4:-1]
    more = api("GET", "/events", params={"limit": 2, "cursor": onward["next_cursor"]}).json()
    assert [entry["id"] for entry in more["items"]] == events[-4:-6:-1]


@sqlite
def test_malformed_cursor_is_refused(api: Api) -> None:
    for path in ("/servers", "/operations", "/events"):
        for cursor in ("x", "!!!!", "e30", "W10", "bnVsbA", "YWZ0ZXI6eA", "é", "'--"):
            problem(api("GET", path, params={"cursor": cursor}), 422, "invalid-request")


def test_filters(api: Api) -> None:
    api.create("web-1")
    api.create("db-1")

    def names(**query: Any) -> list[str]:
        answer = api("GET", "/servers", params=query)
        assert answer.status_code == 200, answer.text
        return sorted(entry["name"] for entry in answer.json()["items"])

    assert names(name="web") == ["web-1"]
    assert names(name="%") == []
    assert names(name="_") == []
    assert names(status="requested") == ["db-1", "web-1"]
    assert names(status="active") == []
    assert names(image="debian") == ["db-1", "web-1"]
    assert names(image="nope") == []
    assert names(host="gamma") == []
    problem(api("GET", "/servers", params={"status": "odd"}), 422, "validation-failed")


def test_idempotency_key_gives_the_same_operation(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first, again = api.create(headers=key), api.create(headers=key)
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    problem(api.create("other", headers=key), 409, "conflict")
    assert len(api("GET", "/servers").json()["items"]) == 1
    # another project's key of the same text is another key
    stranger = api.create(who="stranger", headers=key)
    assert stranger.status_code == 202
    assert stranger.json()["id"] != first.json()["id"]


@sqlite
def test_odd_idempotency_keys_are_refused(api: Api) -> None:
    for key in (b"", b"x" * 256, b"tab\there", b" ", b"\x7f", b"\xe9"):
        problem(api.create(headers={"Idempotency-Key": key}), 422, "validation-failed")
    assert api("GET", "/servers").json()["items"] == []


def test_root_password_is_shown_once(api: Api) -> None:
    made = api(
        "POST", "/servers", json={"name": "web", "plan": "tiny", "root_password": True}
    ).json()
    path = f"/servers/{made['server_id']}"
    assert api("GET", path).json()["root_password_available"]
    shown = api("POST", f"{path}/root-password")
    assert shown.headers["cache-control"] == "no-store"
    password = shown.json()["root_password"]
    assert len(password) > 15
    problem(api("POST", f"{path}/root-password"), 404, "not-found")
    events = api("GET", "/events", params={"kind": "server.root-password"}).json()["items"]
    assert [entry["actor"] for entry in events] == ["key:alice"]
    assert password not in json.dumps(events)


def test_lifecycle_refuses_what_is_not_allowed(api: Api) -> None:
    server_id = api.create().json()["server_id"]
    problem(api("POST", f"/servers/{server_id}/actions/stop"), 409, "conflict")
    problem(api("DELETE", f"/servers/{server_id}"), 409, "conflict")
    problem(api.create(), 409, "conflict")
    assert len(api("GET", "/servers").json()["items"]) == 1


def test_quota(api: Api) -> None:
    path = f"/projects/{api.project_id}/quota"
    assert api("PUT", path, "admin", json={"servers": 1}).json()["servers"] == 1
    assert api.create().status_code == 202
    problem(api.create("more"), 403, "quota-exceeded")
    quota = api("GET", path).json()
    assert (quota["used_servers"], quota["used_memory_mib"], quota["vcpus"]) == (1, 192, 20)
    problem(api("PUT", path, "admin", json={"servers": -2}), 422, "validation-failed")
    problem(api("PUT", path, "admin", json={"servers": 2**31}), 422, "validation-failed")


def test_cancel(api: Api) -> None:
    operation = api.create().json()
    cancelled = api("POST", f"/operations/{operation['id']}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["cancel_requested"]


@sqlite
def test_hosts_over_the_api(api: Api) -> None:
    made = api(
        "POST", "/hosts", "operator", json={"name": "sim", "uri": "test:///default", "vcpus": 4}
    )
    assert made.status_code == 201, made.text
    host = made.json()
    assert (host["vcpus"], host["virt_type"], host["channel"]) == (4, "test", "simulated:sim")
    assert host["memory_mib"] > 0
    path = f"/hosts/{host['id']}"
    assert not api("PATCH", path, "operator", json={"enabled": False}).json()["enabled"]
    assert api("DELETE", path, "operator").status_code == 204
    problem(api("GET", path, "operator"), 404, "not-found")
    again = {"name": "alpha", "uri": "test:///default"}
    problem(api("POST", "/hosts", "operator", json=again), 409, "conflict")


BAD_HOSTS: list[dict[str, Any]] = [
    {"uri": "qemu+ext:///system?command=/bin/sh"},
    {"uri": "qemu+ssh://root@h/system?command=/bin/sh"},
    {"uri": "qemu+ssh://root@h/system?netcat=/bin/sh"},
    {"uri": "qemu+ssh://-oProxyCommand=x@h/system"},
    {"uri": "qemu+ssh://root@-oProxyCommand=x/system"},
    {"uri": "qemu+ssh://root:pw@h/system"},
    {"uri": "qemu+ssh://h:99999999/system"},
    {"uri": "qemu+ssh://[/system"},
    {"uri": "qemu:///../etc/passwd"},
    {"uri": "esx://x/"},
    {"uri": "not a uri"},
    {"uri": ""},
    {"uri": "test:///default\n"},
    {"channel": "ssh://-oProxyCommand=x"},
    {"channel": "ssh://h/path"},
    {"channel": "sh:;reboot"},
    {"channel": "simulated:../../etc"},
    {"channel": "lab://../x"},
    {"pool_path": "relative"},
    {"pool_path": "/a/../../etc"},
    {"pool_path": "/a b"},
    {"pool_path": "/"},
    {"edge_address": "a;b"},
    {"edge_address": "-x"},
    {"vcpus": 0},
    {"cpu_overcommit": "nan"},
    {"name": "Bad Name"},
]


@sqlite
def test_bad_hosts_are_refused(api: Api) -> None:
    for change in BAD_HOSTS:
        body = {"name": "evil", "uri": "test:///default"} | change
        answer = api("POST", "/hosts", "operator", json=body)
        assert answer.status_code == 422, (change, answer.text)
    names = {entry["name"] for entry in api("GET", "/hosts", "operator").json()["items"]}
    assert names == {"alpha", "beta"}


@sqlite
def test_an_unreachable_host_is_a_clear_refusal(api: Api) -> None:
    body = {"name": "gone", "uri": "qemu+unix:///system?socket=/nowhere/sock", "channel": "local:"}
    told = problem(api("POST", "/hosts", "operator", json=body), 422, "host-not-usable")
    assert "The host was not added" in told["detail"]


@sqlite
def test_images_over_the_api(api: Api, started: list[Any]) -> None:
    body = {"name": "deb", "source": "https://example.org/deb.qcow2", "sha256": "A" * 64}
    made = api("POST", "/images", "operator", json=body)
    assert made.status_code == 202, made.text
    image = made.json()
    assert (image["phase"], image["expected_sha256"]) == ("pending", "a" * 64)
    api.app.state.starter.close()
    assert [str(entry[0]) for entry in started] == [image["id"]]
    problem(api("POST", "/images", "operator", json=body), 409, "conflict")
    for source in ("ftp://x/y", "relative", "https://", "file:///etc/shadow", "-x"):
        bad = body | {"name": "bad", "source": source}
        problem(api("POST", "/images", "operator", json=bad), 422, "validation-failed")
    api.create()
    used = next(e for e in api("GET", "/images").json()["items"] if e["name"] == "debian")
    problem(api("DELETE", f"/images/{used['id']}", "operator"), 409, "conflict")
    assert api("DELETE", f"/images/{image['id']}", "operator").status_code == 204


@sqlite
def test_a_removed_plan_stays_with_its_servers(api: Api) -> None:
    server_id = api.create().json()["server_id"]
    plan = next(e for e in api("GET", "/plans").json()["items"] if e["name"] == "tiny")
    assert api("DELETE", f"/plans/{plan['id']}", "operator").status_code == 204
    assert "tiny" not in {entry["name"] for entry in api("GET", "/plans").json()["items"]}
    problem(api("GET", f"/plans/{plan['id']}"), 404, "not-found")
    assert api("GET", f"/servers/{server_id}").json()["plan"].startswith("tiny~")
    again = {"name": "tiny", "vcpus": 2, "memory_mib": 64, "disk_gib": 1}
    assert api("POST", "/plans", "operator", json=again).status_code == 201
    problem(api("POST", "/plans", "operator", json=again), 409, "conflict")


@sqlite
def test_unexpected_errors_say_nothing_of_the_inside(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("secret path /srv")

    monkeypatch.setattr("innkeeper.services.servers.page", broken)
    answer = api("GET", "/servers")
    told = problem(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert told["instance"].startswith("urn:uuid:")
    assert told["instance"] in caplog.text


@sqlite
def test_a_database_that_does_not_answer_is_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any, **_more: Any) -> None:
        raise DatabaseUnavailable("The database does not answer just now.")

    assert api("GET", "/servers").status_code == 200
    monkeypatch.setattr("innkeeper.services.servers.page", broken)
    answer = api("GET", "/servers")
    problem(answer, 503, "database-unavailable")
    assert answer.headers["retry-after"] == "1"
    monkeypatch.setattr("innkeeper.services.statistics.snapshot", broken)
    assert "innkeeper_database_up 0.0" in api("GET", "/metrics", "operator").text


@sqlite
def test_health_readiness_and_metrics(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.client.get(f"{V1}/health").json() == {"status": "ok"}
    monkeypatch.setattr("innkeeper.api.health._prefect_answers", lambda: False)
    ready = api.client.get(f"{V1}/ready")
    assert ready.status_code == 503
    assert ready.json() == {"ready": False, "database": True, "prefect": False}
    monkeypatch.setattr("innkeeper.api.health._prefect_answers", lambda: True)
    assert api.client.get(f"{V1}/ready").status_code == 200
    api.create()
    api("GET", f"/servers/{uuid4()}")
    text = api("GET", "/metrics", "operator").text
    assert 'innkeeper_operations{phase="queued",verb="create"} 1.0' in text
    assert 'innkeeper_host_capacity{host="alpha",resource="vcpus"} 8.0' in text
    assert 'status="requested"} 1.0' in text
    route = 'method="GET",route="/servers/{server_id}",status="404"'
    assert f"innkeeper_api_requests_total{{{route}}} 1.0" in text
    assert "# TYPE innkeeper_vm_suspend_total counter" in text
    assert "# TYPE innkeeper_snapshots gauge" in text
    assert "innkeeper_vm_create_total{" not in text, "only what has ended counts"
    with transaction() as session:
        session.execute(update(Operation).values(phase="failed"))
    text = api("GET", "/metrics", "operator").text
    assert 'innkeeper_vm_create_total{outcome="failed",provider_type="test"} 1.0' in text
    problem(api("GET", "/metrics"), 403, "forbidden")
    root = {"Authorization": f"Bearer {api.keys['operator']}"}
    assert api.client.get("/metrics", headers=root).status_code == 200


@sqlite
def test_openapi_is_complete(api: Api) -> None:
    document = api.client.get("/openapi.json").json()
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.endswith(("/health", "/ready")):
                continue
            assert operation["security"] == [{"ApiKey": []}], path
            statuses = set(operation["responses"])
            assert {"401", "403", "422", "429", "500"} <= statuses, (method, path)
            if "{" in path:
                assert "404" in statuses, (method, path)
            if "requestBody" in operation:
                assert "413" in statuses, (method, path)
            assert operation["description"], (method, path)
