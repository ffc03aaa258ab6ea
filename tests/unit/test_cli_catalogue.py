"""The commands for hosts, images, plans, projects, keys and roles."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from paper_api import NOW, PROJECT, PaperApi, ident, page, run


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
        "uefi": True,
        "reserved_vcpus": 3,
        "reserved_memory_mib": 512,
        "reserved_disk_gib": 5,
        "servers": 3,
        "created_at": NOW,
    } | changes


def test_hosts(paper: PaperApi) -> None:
    path = f"/hosts/{ident('alpha')}"
    paper.on("POST", "/hosts", a_host())
    paper.on("GET", "/hosts", [[a_host()]])
    paper.on("PATCH", path, a_host(enabled=False))
    paper.on("DELETE", path, httpx.Response(204))
    run("host", "add", "alpha", "test:///default", "--edge-address", "127.0.0.1", "--vcpus", "4")
    assert paper.bodies("POST", "/hosts") == [
        {"name": "alpha", "uri": "test:///default", "edge_address": "127.0.0.1", "vcpus": 4}
    ]
    row = run("host", "list").stdout.splitlines()[1].split()
    assert row[:5] == ["alpha", "up", "3", "3/16", "512/16384"]
    assert "disabled" in run("host", "disable", "alpha").stdout
    run("host", "enable", "alpha")
    assert paper.bodies("PATCH", path) == [{"enabled": False}, {"enabled": True}]
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
        "firmware": "bios",
        "created_at": NOW,
    } | changes


def test_image_import_waits_for_ready(paper: PaperApi, tmp_path: Path) -> None:
    paper.on("POST", "/images", an_image())
    ready = an_image(phase="ready", progress=1.0, sha256="5f" * 32, size_bytes=3 << 20)
    paper.on("GET", f"/images/{ident('debian')}", [an_image(), an_image(phase="importing"), ready])
    result = run("image", "import", "debian", str(tmp_path / "x.qcow2"), "--sha256", "ab", "-w")
    assert result.stderr.splitlines() == [
        "debian: pending",
        "debian: importing",
        "debian: ready",
    ]
    assert "3 MiB" in result.stdout
    body = paper.bodies("POST", "/images")[0]
    assert body["source"] == str(tmp_path / "x.qcow2")
    run("image", "import", "debian", "https://example.org/x.qcow2")
    assert paper.bodies("POST", "/images")[1]["source"] == "https://example.org/x.qcow2"


def test_image_that_fails_exits_with_1(paper: PaperApi) -> None:
    paper.on("POST", "/images", an_image())
    paper.on("GET", "/images/.*", an_image(phase="failed", error="The checksum differs."))
    result = run("image", "import", "debian", "https://example.org/x", "--wait", code=1)
    assert "The checksum differs." in result.stderr


def test_images(paper: PaperApi) -> None:
    paper.on("GET", "/images", [[an_image()]])
    paper.on("DELETE", f"/images/{ident('debian')}", httpx.Response(204))
    assert "pending" in run("image", "list").stdout
    assert json.loads(run("image", "show", "debian", "-o", "json").stdout) == an_image()
    run("image", "delete", "debian", code=2)
    assert run("image", "delete", "debian", "-y").stdout == "debian is deleted\n"


def test_plans_projects_keys_roles(paper: PaperApi) -> None:
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
        "snapshots": 50,
        "snapshot_gib": 500,
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
    paper.on("GET", "/plans", [[plan]])
    paper.on("POST", "/plans", plan)
    paper.on("GET", "/projects", [[project]])
    paper.on("POST", "/projects", project)
    paper.on("GET", f"/projects/{PROJECT}/quota", quota)
    paper.on("PUT", f"/projects/{PROJECT}/quota", quota)
    paper.on("GET", "/keys", [[key]])
    paper.on("POST", "/keys", {"key": "ik_canary", **key})
    paper.on("DELETE", f"/keys/{ident('key')}", httpx.Response(204))
    option = {"name": "users", "type": "list", "description": "Who.", "required": False}
    role = {"name": "docker", "description": "Containers.", "options": [option]}
    paper.on("GET", "/roles", page(role))
    assert run("plan", "list").stdout.splitlines()[1].split()[0] == "small"
    run("plan", "create", "small", "--vcpus", "1", "--memory-mib", "1", "--disk-gib", "1")
    assert "shop" in run("project", "list").stdout
    assert run("project", "create", "shop").stdout == "shop is created\n"
    assert paper.bodies("POST", "/projects") == [{"name": "shop"}]
    shown = run("project", "quota", "set", "shop", "--servers", "5").stdout
    assert re.search(r"servers +2 +5\n.*vcpus +2 +none", shown)
    assert paper.bodies("PUT", ".*/quota") == [{"servers": 5}]
    run("project", "quota", "set", "shop", code=2)
    run("project", "quota", "show", "shop")
    assert "never" in run("key", "list").stdout
    created = run("key", "create", "ci", "--role", "user", "--project", "shop")
    assert created.stdout == "ik_canary\n"
    assert "ik_canary" not in created.stderr
    revoked = key | {"id": ident("old"), "revoked_at": NOW}
    paper.on("GET", "/keys", [[revoked, key]])
    assert run("key", "revoke", "ci", "-y").stdout == "ci is revoked\n"
    paper.on("GET", "/keys", [[key, key | {"id": ident("twin")}]])
    assert "by id" in run("key", "revoke", "ci", "-y", code=4).stderr
    assert "docker" in run("role", "list").stdout
    assert re.search(r"users +list +null +Who", run("role", "show", "docker").stdout)


def _a_drain(phase: str, **states: str) -> dict[str, Any]:
    return {
        "id": None if phase == "planned" else ident("drain"),
        "host_id": ident("alpha"),
        "host": "alpha",
        "phase": phase,
        "parallel": 2,
        "allow_power_cycle": False,
        "servers": [
            {
                "server_id": ident(name),
                "server": name,
                "state": state,
                "host": "beta",
                "reason": "it has snapshots" if state == "stays" else None,
            }
            for name, state in states.items()
        ],
    }


def test_a_drain_is_planned_waited_for_and_names_who_stays(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innkeeper.cli.host.POLL_SECONDS", 0.0)
    path = f"/hosts/{ident('alpha')}/drain"
    paper.on("GET", "/hosts", [[a_host()]])
    paper.on("POST", path, _a_drain("planned", web="waits"))
    told = run("host", "drain", "alpha", "--dry-run").stdout
    assert "drain planned" in told
    assert "beta" in told
    assert paper.sent("POST", path)[-1].url.params["dry_run"] == "true"
    paper.on("POST", path, _a_drain("running", web="moves"))
    paper.on("GET", path, [_a_drain("running", web="moves"), _a_drain("done", web="moved")])
    done = run("host", "drain", "alpha", "--wait", "--parallel", "3", "--allow-power-cycle")
    assert "drain done" in done.stdout
    assert paper.bodies("POST", path)[-1] == {"parallel": 3, "allow_power_cycle": True}
    paper.on("POST", path, _a_drain("incomplete", web="moved", db="stays"))
    refused = run("host", "drain", "alpha", "--wait", code=1)
    assert "it has snapshots" in refused.stdout
    assert "These stay: db." in refused.stderr
