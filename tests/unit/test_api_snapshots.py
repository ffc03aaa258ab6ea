"""The API's endpoints of snapshots over the real services, on SQLite and PostgreSQL."""

from typing import Any
from uuid import UUID, uuid4

from api_client import V1, Api, problem

from innkeeper.services import journal, snapshots


def active(api: Api, name: str = "web") -> str:
    operation = api.create(name).json()
    journal.complete(journal.claim(UUID(operation["id"])))
    return str(operation["server_id"])


def finish(operation: dict[str, Any]) -> None:
    held = journal.claim(UUID(operation["id"]))
    begun = journal.begin(held, "layer")
    snapshots.adopt(held, begun.snapshot_layer, kind="quiesced", memory_volume=None, size_bytes=5)
    journal.complete(held)


def test_a_snapshot_is_accepted_shown_changed_reverted_to_and_deleted(api: Api) -> None:
    path = f"/servers/{active(api)}/snapshots"
    answer = api("POST", path, json={"name": "one", "description": "first", "max_age": 3600})
    assert answer.status_code == 202, answer.text
    operation = answer.json()
    assert answer.headers["location"] == f"{V1}/operations/{operation['id']}"
    (listed,) = api("GET", path).json()["items"]
    assert (listed["id"], listed["phase"]) == (operation["snapshot_id"], "creating")
    problem(api("POST", path, json={"name": "two"}), 409, "conflict")
    finish(operation)
    one = f"{path}/{listed['id']}"
    shown = api("GET", one).json()
    assert (shown["phase"], shown["size_bytes"], shown["current"]) == ("ready", 5, True)
    assert shown["expires_at"] > shown["created_at"]
    changed = api("PATCH", one, json={"enabled": False, "max_age": None}).json()
    assert (changed["enabled"], changed["expires_at"]) == (False, None)
    told = problem(api("POST", f"{one}/actions/revert"), 409, "conflict")
    assert "not enabled" in told["detail"]
    api("PATCH", one, json={"enabled": True})
    reverted = api("POST", f"{one}/actions/revert").json()
    assert (reverted["verb"], reverted["snapshot_id"]) == ("revert", listed["id"])
    held = problem(api("DELETE", one), 409, "conflict")
    assert f"Operation {reverted['id']} is at work on 'web'" in held["detail"]
    journal.complete(journal.claim(UUID(reverted["id"])))
    deleted = api("DELETE", one)
    assert (deleted.status_code, deleted.json()["verb"]) == (202, "delete-snapshot")
    assert api("GET", one).json()["phase"] == "deleting"


def test_a_key_makes_one_snapshot(api: Api) -> None:
    path = f"/servers/{active(api)}/snapshots"
    headers = {"Idempotency-Key": "nightly"}
    answers = [api("POST", path, json={"memory": True}, headers=headers) for _ in range(3)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(api("GET", path).json()["items"]) == 1
    problem(api("POST", path, json={"memory": False}, headers=headers), 409, "conflict")


def test_what_is_wrong_is_refused(api: Api) -> None:
    server = active(api)
    path = f"/servers/{server}/snapshots"
    for body in (
        {"name": "No Label"},
        {"memory": "yes"},
        {"quiesce": "maybe"},
        {"max_age": 1},
        {"description": "a\nb"},
        {"unknown": 1},
    ):
        assert api("POST", path, json=body).status_code == 422
    assert api("GET", path).json()["items"] == []
    problem(api("GET", f"{path}/{uuid4()}"), 404, "not-found")
    problem(api("DELETE", f"{path}/{uuid4()}"), 404, "not-found")
    problem(api("POST", f"{path}/{uuid4()}/actions/revert"), 404, "not-found")
    api("PUT", f"/projects/{api.project_id}/quota", "admin", json={"snapshots": 0})
    problem(api("POST", path), 403, "quota-exceeded")
    finish_path = f"/servers/{active(api, 'db')}/snapshots"
    api("PUT", f"/projects/{api.project_id}/quota", "admin", json={"snapshots": 5})
    operation = api("POST", finish_path).json()
    finish(operation)
    crossed = f"{path}/{operation['snapshot_id']}"
    problem(api("GET", crossed), 404, "not-found")
    problem(api("POST", f"{crossed}/actions/revert"), 404, "not-found")
