"""Dry runs over HTTP, on every route that makes an operation."""

from pathlib import Path
from uuid import UUID

import pytest
from api_client import V1, Api, problem
from conftest import Catalogue
from journaled import active

from innkeeper.api.app import create_app
from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.domain.offer import Pages
from innkeeper.host import machine
from innkeeper.hypervisor import memory

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def test_every_route_that_makes_an_operation_has_a_dry_run() -> None:
    paths = create_app().openapi()["paths"]
    planned, others = set(), set()
    for path, methods in paths.items():
        for method, described in methods.items():
            if "202" not in described["responses"]:
                continue
            names = {parameter["name"] for parameter in described.get("parameters", [])}
            makes = "Location" in described["responses"]["202"].get("headers", {})
            (planned if makes else others).add(f"{method} {path}")
            assert ({"dry_run", "plan"} <= names) == makes, f"{method} {path}"
            assert ("200" in described["responses"]) == (makes or "dry_run" in names)
    assert len(planned) >= 13
    assert others == {
        f"post {V1}/images",
        f"post {V1}/operations/{{operation_id}}/cancel",
        f"put {V1}/servers/{{server_id}}/resources",  # several, one after another
        f"post {V1}/hosts/{{host_id}}/drain",  # it makes operations, in its own time
    }


@sqlite
def test_a_plan_is_shown_and_carried_out(
    api: Api, catalogue: Catalogue, started: list[UUID]
) -> None:
    path = f"/servers/{active(catalogue)}"
    asked = {"json": {"memory_mib": 512, "disk_gib": 2, "allow_power_cycle": True}}
    shown = api("POST", f"{path}/actions/resize?dry_run=true", **asked)
    assert shown.status_code == 200, shown.text
    assert "Location" not in shown.headers
    plan = shown.json()
    assert [change["effect"] for change in plan["changes"]] == ["power_cycle", "live"]
    assert (plan["changes"][0]["before"], plan["changes"][0]["after"]) == ("192 MiB", "512 MiB")
    assert plan["interruption"] == "the guest is powered off and on"
    assert plan["steps"][0] == "turn-off"
    assert api("GET", "/operations").json()["items"][0]["verb"] == "create"
    assert started == []
    other = api("POST", f"{path}/actions/resize?plan={plan['digest']}", json={"vcpus": 2})
    assert "the request is another one" in problem(other, 409, "plan-outdated")["detail"]
    done = api("POST", f"{path}/actions/resize?plan={plan['digest']}", **asked)
    assert done.status_code == 202, done.text
    late = api("POST", f"{path}/actions/resize?dry_run=true", **asked)
    assert "is at work on" in problem(late, 409, "conflict")["detail"]


@sqlite
def test_dry_runs_of_creation_deletion_and_snapshots(api: Api, catalogue: Catalogue) -> None:
    path = f"/servers/{active(catalogue)}"
    body = {"json": {"name": "new", "plan": "tiny"}}
    asked = [
        ("POST", "/servers", body),
        ("DELETE", path, {}),
        ("POST", f"{path}/snapshots", {}),
        ("POST", f"{path}/actions/stop", {}),
    ]
    for method, where, more in asked:
        shown = api(method, f"{where}?dry_run=true", **more)
        assert shown.status_code == 200, shown.text
        assert shown.json()["digest"].startswith("p1-")
    assert [one["name"] for one in api("GET", "/servers").json()["items"]] == ["web"]
    needed = api("POST", f"{path}/actions/resize", json={"memory_mib": 512})
    assert "--allow-power-cycle" in problem(needed, 409, "power-cycle-needed")["detail"]
    problem(api("DELETE", f"{path}?dry_run=true", who="stranger"), 404, "not-found")


@sqlite
def test_limits_and_what_hosts_have_left(api: Api, catalogue: Catalogue) -> None:
    catalogue.set_hosts("beta", enabled=False)
    server_id = active(catalogue, plan="small")
    seen = api("GET", "/resource-limits", who="operator").json()
    assert seen["smallest"] == {"vcpus": 1, "memory_mib": 192, "disk_gib": 1}
    assert seen["largest"]["vcpus"] == 32
    alpha, beta = seen["hosts"]
    assert alpha["limit"] == {"vcpus": 16, "memory_mib": 16384, "disk_gib": 200}
    assert alpha["allocated"] == {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
    assert alpha["free"] == {"vcpus": 15, "memory_mib": 15360, "disk_gib": 190}
    assert alpha["margin"] == {"vcpus": 15, "memory_mib": 13107 - 1024, "disk_gib": 170}
    assert alpha["warnings"] == beta["warnings"] == []
    path = f"/servers/{server_id}/actions/resize?dry_run=true"
    plan = api("POST", path, json={"disk_gib": 181}).json()
    assert "More than 90% of the disk of alpha is taken." in plan["warnings"]
    body = {"memory_mib": 13200, "allow_power_cycle": True}
    plan = api("POST", path, json=body).json()
    assert "More than 80% of the memory of alpha is taken." in plan["warnings"]
    assert (beta["enabled"], beta["free"]) == (False, beta["limit"])
    assert api("GET", "/resource-limits").json()["hosts"] == []


@sqlite
def test_a_server_has_a_maintenance_window(api: Api, catalogue: Catalogue) -> None:
    path = f"/servers/{active(catalogue)}"
    assert api("GET", path).json()["maintenance_window"] is None
    body = {"maintenance_window": "daily 23:30-00:30"}
    assert api("PATCH", path, json=body).json()["maintenance_window"] == "daily 23:30-00:30"
    assert api("PATCH", path, json={"description": "d"}).json()["maintenance_window"]
    problem(api("PATCH", path, json={"maintenance_window": "ever"}), 422, "validation-failed")
    (event,) = api("GET", "/events?kind=server.changed").json()["items"][1:]
    assert (event["before"], event["after"]) == ({"maintenance_window": None}, body)
    assert api("PATCH", path, json={"maintenance_window": None}).status_code == 200


@sqlite
def test_what_is_really_left_is_told_and_warned_of_and_counts(
    api: Api, catalogue: Catalogue, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is this machine is looked at without libvirt."""
    path = f"/servers/{active(catalogue, plan='small')}/actions/resize"
    catalogue.set_hosts("alpha", channel="local:", virt_type="qemu", pool_path=f"{home}/not/yet")
    alpha, beta = api("GET", "/resource-limits", who="operator").json()["hosts"]
    assert beta["measured"] is None, "it is simulated"
    there = alpha["measured"]
    assert 0 < there["available_mib"] <= there["memory_mib"]
    assert 0 <= there["free_gib"] <= there["disk_gib"]
    assert there["huge_pages"] == [], "libvirt's test driver tells of no NUMA node here"
    pages = {2: Pages(80, 50)}
    monkeypatch.setattr(memory, "pages", lambda _: pages)
    with transaction() as session:
        session.query(Server).update({Server.pages: {"2": 30}})
    alpha, _ = api("GET", "/resource-limits", who="operator").json()["hosts"]
    held = {"size_mib": 2, "total": 80, "free": 50, "held": 30}
    assert alpha["measured"]["huge_pages"] == [held]
    monkeypatch.setattr(machine, "memory_mib", lambda: (10_000, 1_900))
    monkeypatch.setattr(machine, "disk_gib", lambda _: (100, 9))
    body = {"memory_mib": 2048, "allow_power_cycle": True}
    plan = api("POST", f"{path}?dry_run=true", json=body).json()
    said = [
        "More than 80% of the memory of alpha is in use: 1900 of 10000 MiB are available.",
        "More than 90% of the disk of alpha is in use: 9 of 100 GiB are free.",
    ]
    assert plan["warnings"][-2:] == said
    assert api("POST", f"{path}?validate_only=true", json=body).json()["warnings"][-2:] == said
    hosts = api("GET", "/resource-limits", who="operator").json()["hosts"]
    assert [one["warnings"] for one in hosts] == [said, []]
    refused = api("POST", path, json=body | {"memory_mib": 4096})
    assert "only 1900 are available now" in problem(refused, 409, "no-host-fits")["detail"]
    catalogue.set_hosts("alpha", memory_overcommit=2.0)
    assert api("POST", path, json=body | {"memory_mib": 4096}).status_code == 202
