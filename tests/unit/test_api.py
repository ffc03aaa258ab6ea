"""The API's endpoints over the real services, on SQLite and PostgreSQL."""

import json
import time
import warnings
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from innkeeper import dispatch
from innkeeper.api.app import create_app
from innkeeper.api.rates import Rates
from innkeeper.db.session import DatabaseUnavailable
from innkeeper.services import keys, projects

with warnings.catch_warnings():  # Starlette would rather have httpx2
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

V1 = "/api/v1"


class Api:
    """A client with keys of every role."""

    def __init__(self, client: TestClient, project_id: Any) -> None:
        self.client = client
        self.app: Any = client.app
        self.project_id = project_id
        self.other_id = projects.create("other").id
        self.keys = {
            "admin": keys.create("root", "admin")[1],
            "operator": keys.create("op", "operator")[1],
            "user": keys.create("alice", "user", project_id)[1],
            "stranger": keys.create("mallory", "user", self.other_id)[1],
        }

    def __call__(self, method: str, path: str, who: str = "user", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.keys[who]}"} | more.pop("headers", {})
        return self.client.request(method, V1 + path, headers=headers, **more)

    def create(self, name: str = "web", **more: Any) -> Any:
        return self("POST", "/servers", json={"name": name, "plan": "tiny"}, **more)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(dispatch, "dispatch", lambda operation: found.append(operation.id))
    monkeypatch.setattr(dispatch, "dispatch_image", lambda *args: found.append(args))
    return found


@pytest.fixture
def api(catalogue: Any, started: list[Any]) -> Iterator[Api]:
    with TestClient(create_app(), raise_server_exceptions=False) as client:
        yield Api(client, catalogue.project_id)


sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def problem(response: Any, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"https://innkeeper.dev/problems/{slug}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


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


ROUTES_OF_A_SERVER = [
    ("GET", "/servers/{server}"),
    ("DELETE", "/servers/{server}"),
    ("POST", "/servers/{server}/root-password"),
    ("POST", "/servers/{server}/actions/start"),
    ("POST", "/servers/{server}/actions/stop"),
    ("POST", "/servers/{server}/actions/reboot"),
    ("POST", "/servers/{server}/actions/rebuild"),
    ("POST", "/servers/{server}/actions/configure"),
    ("GET", "/operations/{operation}"),
    ("POST", "/operations/{operation}/cancel"),
    ("GET", "/operations/{operation}/events"),
    ("GET", "/projects/{project}"),
    ("GET", "/projects/{project}/quota"),
]
ROUTES_OF_OPERATORS = [
    ("GET", "/hosts"),
    ("POST", "/hosts"),
    ("GET", "/hosts/{id}"),
    ("PATCH", "/hosts/{id}"),
    ("DELETE", "/hosts/{id}"),
    ("POST", "/images"),
    ("DELETE", "/images/{id}"),
    ("POST", "/plans"),
    ("DELETE", "/plans/{id}"),
    ("GET", "/audit"),
    ("GET", "/metrics"),
]
ROUTES_OF_ADMINS = [
    ("POST", "/projects"),
    ("PUT", "/projects/{id}/quota"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("DELETE", "/keys/{id}"),
]
ROUTES_OF_ALL = [
    ("GET", "/servers"),
    ("POST", "/servers"),
    ("GET", "/operations"),
    ("GET", "/images"),
    ("GET", "/images/{id}"),
    ("GET", "/plans"),
    ("GET", "/plans/{id}"),
    ("GET", "/projects"),
    ("GET", "/roles"),
    ("GET", "/events"),
]
BODIES: dict[str, Any] = {
    "/hosts": {"name": "h", "uri": "test:///default"},
    "/images": {"name": "i", "source": "https://example.org/i"},
    "/plans": {"name": "p", "vcpus": 1, "memory_mib": 64, "disk_gib": 1},
    "/projects": {"name": "p"},
    "/keys": {"name": "k", "role": "admin"},
    "/servers": {"name": "s", "plan": "tiny"},
    "/hosts/{id}": {},
    "/projects/{id}/quota": {},
}


def test_no_route_is_missing_here(api: Api) -> None:
    known = {*ROUTES_OF_A_SERVER, *ROUTES_OF_OPERATORS, *ROUTES_OF_ADMINS, *ROUTES_OF_ALL}
    plain = {(method, "/".join(_blank(part) for part in path.split("/"))) for method, path in known}
    document = api.client.get("/openapi.json").json()
    served = {
        (method.upper(), "/".join(_blank(part) for part in path.removeprefix(V1).split("/")))
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert served - {("GET", "/health"), ("GET", "/ready")} == plain


def _blank(part: str) -> str:
    return "{}" if part.startswith("{") else part


def test_a_foreign_id_is_not_found(api: Api) -> None:
    operation = api.create().json()
    ids = {
        "server": operation["server_id"],
        "operation": operation["id"],
        "project": str(api.project_id),
    }
    for method, path in ROUTES_OF_A_SERVER:
        foreign = problem(api(method, path.format(**ids), "stranger"), 404, "not-found")
        unknown = {name: str(uuid4()) for name in ids}
        absent = problem(api(method, path.format(**unknown), "stranger"), 404, "not-found")
        assert _without(foreign["detail"], ids) == _without(absent["detail"], unknown)
    for path in ("/servers", "/operations", "/events"):
        assert problem(
            api("GET", path, "stranger", params={"project": "default"}), 404, "not-found"
        )
        items = api("GET", path, "stranger").json()["items"]
        assert all(entry["project_id"] == str(api.other_id) for entry in items)
    problem(
        api("POST", "/servers", "stranger", json=BODIES["/servers"], params={"project": "default"}),
        404,
        "not-found",
    )
    narrowed = api("GET", "/operations", "stranger", params={"server_id": ids["server"]})
    assert narrowed.json()["items"] == []
    narrowed = api("GET", "/events", "stranger", params={"server_id": ids["server"]})
    assert narrowed.json()["items"] == []
    mine = api("GET", "/projects", "stranger").json()["items"]
    assert [entry["name"] for entry in mine] == ["other"]
    assert api("GET", f"/servers/{ids['server']}").json()["status"] == "requested"


def _without(text: str, ids: dict[str, str]) -> str:
    for value in ids.values():
        text = text.replace(value, "ID")
    return text


@sqlite
def test_roles_may_what_they_may(api: Api) -> None:
    def status(method: str, path: str, who: str) -> int:
        answer = api(method, path.format(id=uuid4()), who, json=BODIES.get(path))
        assert answer.status_code < 500, answer.text
        return int(answer.status_code)

    for method, path in ROUTES_OF_OPERATORS:
        assert status(method, path, "user") == 403, path
        assert status(method, path, "operator") in {200, 201, 202, 404}, path
    for method, path in ROUTES_OF_ADMINS:
        assert status(method, path, "user") == 403, path
        assert status(method, path, "operator") == 403, path
        assert status(method, path, "admin") in {200, 201, 404}, path
    for method, path in ROUTES_OF_ALL:
        assert status(method, path, "user") in {200, 202, 404}, path


@sqlite
def test_without_a_valid_key_nothing_is_told(api: Api) -> None:
    every = [*ROUTES_OF_A_SERVER, *ROUTES_OF_OPERATORS, *ROUTES_OF_ADMINS, *ROUTES_OF_ALL]
    for number, (method, path) in enumerate(every):
        unknown = dict.fromkeys(("id", "server", "operation", "project"), str(uuid4()))
        where = V1 + path.format(**unknown)
        headers = [{}, {"Authorization": "Bearer ik_wrong"}, {"Authorization": "Basic eDp5"}]
        api.app.state.gate.rates = Rates("600/minute")
        answer = api.client.request(
            method, where, headers=headers[number % 3], json=BODIES.get(path)
        )
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


@sqlite
def test_operator_sees_all_projects_and_may_narrow(api: Api) -> None:
    api.create("mine")
    api.create("theirs", who="stranger")
    names = {entry["name"] for entry in api("GET", "/servers", "operator").json()["items"]}
    assert names == {"mine", "theirs"}
    narrowed = api("GET", "/servers", "operator", params={"project": "other"}).json()["items"]
    assert [entry["name"] for entry in narrowed] == ["theirs"]
    by_id = api("GET", "/servers", "operator", params={"project": str(api.other_id)}).json()
    assert by_id["items"] == narrowed
    made = api.create("for-other", who="operator", params={"project": "other"})
    assert made.json()["project_id"] == str(api.other_id)
    assert api.create("for-default", who="admin").json()["project_id"] == str(api.project_id)
    problem(api("GET", "/servers", "operator", params={"project": "nope"}), 404, "not-found")


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


def test_keys_are_made_shown_once_and_revoked(api: Api) -> None:
    body = {"name": "bob", "role": "user", "project": "default"}
    made = api("POST", "/keys", "admin", json=body)
    assert made.status_code == 201, made.text
    key = made.json()
    assert key["key"].startswith("ik_")
    api.keys["bob"] = key["key"]
    assert api("GET", "/servers", "bob").status_code == 200
    assert key["key"] not in api("GET", "/keys", "admin").text
    assert api("DELETE", f"/keys/{key['id']}", "admin").status_code == 204
    problem(api("GET", "/servers", "bob"), 401, "unauthenticated")
    revoked = [e for e in api("GET", "/keys", "admin").json()["items"] if e["revoked_at"]]
    assert [entry["name"] for entry in revoked] == ["bob"]
    problem(
        api("POST", "/keys", "admin", json={"name": "x", "role": "user"}), 422, "invalid-request"
    )
    problem(api("POST", "/keys", "admin", json=body | {"role": "operator"}), 422, "invalid-request")
    problem(api("POST", "/keys", "admin", json=body | {"project": "no"}), 404, "not-found")


@sqlite
def test_a_key_revoked_by_another_process_dies_soon(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, api.keys["bob"] = keys.create("bob", "user", api.project_id)
    assert api("GET", "/servers", "bob").status_code == 200
    keys.revoke(view.id)
    assert api("GET", "/servers", "bob").status_code == 200  # remembered
    later = time.monotonic() + 3.1
    monkeypatch.setattr("innkeeper.api.access.time.monotonic", lambda: later)
    problem(api("GET", "/servers", "bob"), 401, "unauthenticated")


@sqlite
def test_rates(api: Api) -> None:
    api.app.state.gate.rates = Rates("5/minute")
    assert [api("GET", "/servers").status_code for _ in range(5)] == [200] * 5
    refused = api("GET", "/servers")
    problem(refused, 429, "too-many-requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert api("GET", "/servers", "stranger").status_code == 200  # a rate for each key
    statuses = [api.client.get(f"{V1}/servers").status_code for _ in range(32)]
    assert statuses[:30] == [401] * 30
    assert statuses[-1] == 429
    assert api("GET", "/servers", "stranger").status_code == 200  # known keys go on
    problem(api("GET", "/servers", "operator"), 429, "too-many-requests")  # unknown till now


HOSTILE = [
    "a\x00b",
    "a\ud800b",
    "' OR 1=1 --",
    "'; DROP TABLE servers; --",
    "$(reboot)",
    "`reboot`",
    "a;reboot",
    "../../etc/passwd",
    "<domain/>",
    "]]><x/>",
    "{{ 7*7 }}",
    "{% import os %}",
    "!!python/object/apply:os.system ['x']",
    "a\nb: c",
    "a\r\nX-Header: y",
    "-rf",
    "a" * 300,
    "\uff41",
    "a\u202eb",
    "",
]


def test_hostile_text_is_one_clear_refusal(api: Api) -> None:
    for text in HOSTILE:
        for change in (
            {"name": text},
            {"image": text},
            {"plan": text},
            {"ssh_keys": [text]},
            {"packages": [text]},
            {"roles": [{"name": text, "variables": {}}]},
        ):
            answer = _post_raw(api, json.dumps({"name": "web", "plan": "tiny"} | change))
            assert answer.status_code in {404, 422}, (change, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
    _nothing_was_made(api)


def test_text_that_no_database_holds_is_refused(api: Api) -> None:
    for change in (
        {"user_data": "#!/bin/sh\nHERE"},
        {"user_data": "#cloud-config\nx: HERE"},
        {"description": "HERE"},
        {"runcmd": ["HERE"]},
        {"runcmd": [["HERE"]]},
        {"roles": [{"name": "nginx", "variables": {"x": "HERE"}}]},
        {"roles": [{"name": "nginx", "variables": {"HERE": 1}}]},
        {"HERE": 1},
    ):
        for text in ("a\x00b", "a\ud800b"):
            body = json.dumps({"name": "web", "plan": "tiny"} | change)
            answer = _post_raw(api, body.replace("HERE", json.dumps(text)[1:-1]))
            assert answer.status_code == 422, (change, answer.text)
    _nothing_was_made(api)


def _post_raw(api: Api, body: str) -> Any:
    headers = {"Content-Type": "application/json"}
    return api("POST", "/servers", content=body.encode(), headers=headers)


def _nothing_was_made(api: Api) -> None:
    assert api("GET", "/servers", params={"include_deleted": True}).json()["items"] == []
    assert api("GET", "/operations").json()["items"] == []


@sqlite
def test_nul_in_the_address_is_refused(api: Api) -> None:
    for path in ("/servers", "/operations", "/events"):
        where = f"{path}?name=a%00b&project=%00&kind=%00"
        problem(api("GET", where), 400, "malformed-request")
    for path in ("/images/%00", "/x%00y"):
        problem(api("GET", path), 400, "malformed-request")


ODD_BODIES = [
    (b"{", 400, "malformed-request"),
    (b"\xff\xfe", 400, "malformed-request"),
    (b"[" * 100_000, 400, "malformed-request"),
    (b'{"name": ' + b"9" * 5000 + b"}", 400, "malformed-request"),
    (b"null", 422, "validation-failed"),
    (b"[]", 422, "validation-failed"),
    (b'"x"', 422, "validation-failed"),
    (b'{"name": "a", "disk_gib": NaN}', 422, "validation-failed"),
    (b'{"name": "a", "disk_gib": 1e999}', 422, "validation-failed"),
    (b'{"name": "a", "disk_gib": ' + b"9" * 400 + b"}", 422, "validation-failed"),
    (b'{"name": "a"} ' + b" " * (1 << 20), 413, "content-too-large"),
]


@sqlite
def test_odd_bodies(api: Api) -> None:
    json_type = {"Content-Type": "application/json"}
    for content, status, slug in ODD_BODIES:
        problem(api("POST", "/servers", content=content, headers=json_type), status, slug)


@sqlite
def test_a_body_of_unknown_length_is_limited_too(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 65536

    answer = api("POST", "/servers", content=chunks())
    problem(answer, 413, "content-too-large")


@sqlite
def test_nothing_is_read_of_a_stranger(api: Api) -> None:
    json_type = {"Content-Type": "application/json"}
    answer = api.client.post(f"{V1}/servers", content=b"{", headers=json_type)
    problem(answer, 401, "unauthenticated")
    problem(api("POST", "/servers", content=b"{", headers=json_type), 400, "malformed-request")


@sqlite
def test_large_bodies_cost_more_of_the_rate(api: Api) -> None:
    api.app.state.gate.rates = Rates("40/minute")
    body = {"name": "web", "user_data": "#!/bin/sh\n" + "x" * 200_000}
    problem(api("POST", "/servers", json=body), 422, "validation-failed")
    statuses = [api("POST", "/servers", json=body).status_code for _ in range(4)]
    assert statuses == [422, 422, 429, 429]


@sqlite
def test_errors_of_the_framework_are_problems(api: Api) -> None:
    problem(api("GET", "/nowhere"), 404, "not-found")
    problem(api.client.get("/"), 404, "not-found")
    wrong = api("PUT", "/servers")
    problem(wrong, 405, "method-not-allowed")
    assert wrong.headers["allow"] == "GET, POST"
    quota = api("DELETE", f"/projects/{uuid4()}/quota")
    assert quota.headers["allow"] == "GET, PUT"
    told = problem(api("GET", "/servers/not-a-uuid"), 422, "validation-failed")
    assert told["errors"][0]["part"] == "path"
    told = problem(
        api("POST", "/servers", json={"name": "x", "secret_thing": "hunter2"}),
        422,
        "validation-failed",
    )
    assert told["errors"] == [
        {"part": "body", "pointer": "/secret_thing", "detail": "Extra inputs are not permitted"}
    ]
    assert "hunter2" not in json.dumps(told)


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
