"""Who may do what over the API: isolation, roles, keys, rates."""

import time
from typing import Any
from uuid import uuid4

import pytest
from api_client import V1, Api, problem

from innkeeper.api.rates import Rates
from innkeeper.services import keys

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


ROUTES_OF_A_SERVER = [
    ("GET", "/servers/{server}"),
    ("GET", "/servers/{server}/console-log"),
    ("PATCH", "/servers/{server}"),
    ("DELETE", "/servers/{server}"),
    ("POST", "/servers/{server}/root-password"),
    ("POST", "/servers/{server}/actions/start"),
    ("POST", "/servers/{server}/actions/stop"),
    ("POST", "/servers/{server}/actions/reboot"),
    ("POST", "/servers/{server}/actions/rebuild"),
    ("POST", "/servers/{server}/actions/configure"),
    ("POST", "/servers/{server}/actions/suspend"),
    ("POST", "/servers/{server}/actions/resume"),
    ("POST", "/servers/{server}/actions/resize"),
    ("DELETE", "/servers/{server}/pending-resize"),
    ("PUT", "/servers/{server}/resources"),
    ("POST", "/servers/{server}/actions/shelve"),
    ("POST", "/servers/{server}/actions/unshelve"),
    ("POST", "/servers/{server}/actions/migrate"),
    ("POST", "/servers/{server}/actions/flatten"),
    ("POST", "/servers/{server}/actions/attach-disk"),
    ("POST", "/servers/{server}/actions/detach-disk"),
    ("POST", "/servers/{server}/actions/grow-disk"),
    ("POST", "/servers/{server}/actions/attach-nic"),
    ("POST", "/servers/{server}/actions/detach-nic"),
    ("GET", "/servers/{server}/clones"),
    ("POST", "/servers/{server}/clones"),
    ("GET", "/servers/{server}/snapshots"),
    ("POST", "/servers/{server}/snapshots"),
    ("GET", "/servers/{server}/snapshots/{server}"),
    ("PATCH", "/servers/{server}/snapshots/{server}"),
    ("DELETE", "/servers/{server}/snapshots/{server}"),
    ("POST", "/servers/{server}/snapshots/{server}/actions/revert"),
    ("POST", "/servers/{server}/snapshots/{server}/actions/verify"),
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
    ("POST", "/hosts/{id}/drain"),
    ("GET", "/hosts/{id}/drain"),
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
    ("GET", "/resource-limits"),
    ("GET", "/plans/{id}"),
    ("GET", "/projects"),
    ("GET", "/roles"),
    ("GET", "/events"),
    ("GET", "/disks"),
    ("GET", "/disks/{id}"),
    ("DELETE", "/disks/{id}"),
    ("GET", "/snapshot-policies"),
    ("POST", "/snapshot-policies"),
    ("GET", "/snapshot-policies/{id}"),
    ("PATCH", "/snapshot-policies/{id}"),
    ("DELETE", "/snapshot-policies/{id}"),
]
BODIES: dict[str, Any] = {
    "/hosts": {"name": "h", "uri": "test:///default"},
    "/images": {"name": "i", "source": "https://example.org/i"},
    "/plans": {"name": "p", "vcpus": 1, "memory_mib": 64, "disk_gib": 1},
    "/projects": {"name": "p"},
    "/keys": {"name": "k", "role": "admin"},
    "/servers": {"name": "s", "plan": "tiny"},
    "/servers/{server}/clones": {"name": "s"},
    "/servers/{server}/actions/attach-disk": {"name": "d", "size_gib": 1},
    "/servers/{server}/actions/detach-disk": {"disk": "d"},
    "/servers/{server}/actions/grow-disk": {"disk": "d", "size_gib": 2},
    "/servers/{server}/actions/attach-nic": {"name": "n"},
    "/servers/{server}/actions/detach-nic": {"nic": "n"},
    "/servers/{server}/resources": {"vcpus": 1, "memory_mib": 192, "disk_gib": 1},
    "/hosts/{id}": {},
    "/projects/{id}/quota": {},
    "/snapshot-policies": {"name": "p", "schedule": "daily:1"},
    "/snapshot-policies/{id}": {},
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
        body = BODIES.get(path) if method in {"POST", "PUT"} else None
        foreign = problem(api(method, path.format(**ids), "stranger", json=body), 404, "not-found")
        unknown = {name: str(uuid4()) for name in ids}
        answer = api(method, path.format(**unknown), "stranger", json=body)
        absent = problem(answer, 404, "not-found")
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
        assert status(method, path, "user") in {200, 201, 202, 404}, path


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
