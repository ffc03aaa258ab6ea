"""Hostile and odd input over the API is one clear refusal and makes nothing."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from api_client import V1, Api, problem

from innkeeper.api.rates import Rates

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


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
