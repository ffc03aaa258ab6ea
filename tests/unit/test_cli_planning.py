"""`--dry-run`, `--as-planned` and `resize`: what is sent and printed."""

import json
import re
from typing import Any

import pytest
from paper_api import PaperApi, a_problem, a_server, an_operation, ident, page, run

SERVER = f"/servers/{ident('web')}"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGyoPZtVgB1SpLRnmCJp0v6RTwTq0SH6lvYfyK0dcyX alice@desk"
DIGEST = "p1-00000000-11111111"


def a_plan(verb: str = "resize", **changes: Any) -> dict[str, Any]:
    return {
        "verb": verb,
        "server_id": ident("web"),
        "server": "web",
        "changes": [
            {"effect": "power_cycle", "subject": "memory", "before": "192 MiB", "after": "1 GiB"},
            {"effect": "recreate", "subject": "server", "before": "active", "after": None},
        ],
        "interruption": "the guest is powered off and on",
        "host": {"name": "alpha", "free_vcpus": 3, "free_memory_mib": 512, "free_disk_gib": 9},
        "quota": {
            "servers": 4,
            "vcpus": None,
            "memory_mib": 1024,
            "disk_gib": 7,
            "snapshots": 50,
            "snapshot_gib": 500,
            "isolated_networks": 10,
        },
        "warnings": ["A root disk never shrinks again."],
        "steps": ["turn-off"],
        "digest": DIGEST,
    } | changes


def test_a_resize_sends_what_was_named(paper: PaperApi) -> None:
    paper.on("POST", f"{SERVER}/actions/resize", an_operation(verb="resize"))
    run("server", "resize", "web", "--vcpus", "2", "--disk", "4", "--expand-offline")
    run("server", "resize", "web", "--plan", "small", "--allow-power-cycle")
    assert paper.bodies("POST", f"{SERVER}/actions/resize") == [
        {"vcpus": 2, "disk_gib": 4, "allow_power_cycle": False, "expand": "offline"},
        {"plan": "small", "allow_power_cycle": True, "expand": "online"},
    ]
    assert not any(request.url.query for request in paper.sent("POST", f"{SERVER}/actions/resize"))
    run("server", "resize", "web", "--vcpus", "33", code=2)


@pytest.mark.parametrize(
    ("command", "method", "path"),
    [
        (("create", "new", "--ssh-key", KEY), "POST", "/servers"),
        (("clone", "web", "new"), "POST", f"{SERVER}/clones"),
        (("server", "resize", "web"), "POST", f"{SERVER}/actions/resize"),
        (
            ("server", "resources", "web", "--vcpus", "1", "--memory", "192", "--disk", "1"),
            "PUT",
            f"{SERVER}/resources",
        ),
    ],
)
def test_the_fine_print_is_sent_wherever_it_may_be_asked_for(
    paper: PaperApi, command: tuple[str, ...], method: str, path: str
) -> None:
    answer = {"changed": False, "plans": []} if method == "PUT" else an_operation()
    paper.on(method, path, answer)
    run(
        *command,
        *("--cpu-model", "qemu64", "--cpu-limit", "50", "--cpu-nodes", "0", "--hugepages", "2"),
        *("--memory-nodes", "0", "--memory-mode", "preferred", "--no-balloon"),
        *("--memory-soft-limit", "0"),
    )
    (sent,) = paper.bodies(method, path)
    assert sent["cpu"] == {"model": "qemu64", "limit": 50, "nodes": "0"}
    memory = {"hugepages": 2, "nodes": "0", "mode": "preferred", "balloon": False, "soft_limit": 0}
    assert sent["memory"] == memory
    run(*command)
    assert {"cpu", "memory"}.isdisjoint(paper.bodies(method, path)[1])


def test_a_server_tells_its_fine_print(paper: PaperApi) -> None:
    there = a_server(cpu={"limit": 50}, memory={"hugepages": 2, "balloon": False})
    paper.on("GET", "/servers", page(there))
    shown = run("server", "show", "web").stdout
    assert re.search(r"cpu\s+limit 50", shown)
    assert re.search(r"memory\s+hugepages 2, balloon False", shown)


def test_a_resize_that_waits_and_a_cpu(paper: PaperApi) -> None:
    path = f"{SERVER}/actions/resize"
    paper.on("POST", path, an_operation(verb="resize", phase="succeeded", deferred=True))
    shown = run("server", "resize", "web", "--defer", "--sockets", "2", "--pin", "0-1")
    assert "web: the resize waits for a power cycle" in shown.stdout
    fine = {"sockets": 2, "pin": "0-1"}
    sent = {"cpu": fine, "allow_power_cycle": False, "defer": True, "expand": "online"}
    assert paper.bodies("POST", path) == [sent]
    paper.on("DELETE", f"{SERVER}/pending-resize", a_server())
    assert "no resize waits any more" in run("server", "cancel-resize", "web").stdout


def test_what_waits_is_shown(paper: PaperApi) -> None:
    change = {"effect": "power_cycle", "subject": "vCPUs", "before": "2", "after": "1"}
    waiting = {"since": "2026-11-26T12:00:00Z", "operation_id": ident("op"), "asked_by": "alice"}
    waiting |= {"vcpus": 1, "memory_mib": 192, "disk_gib": 1, "changes": [change], "reasons": {}}
    told = {"type": "ReconfigurePendingPowerCycle", "message": "A resize waits."}
    told |= {"since": "2026-11-26T12:00:00Z"}
    server = a_server(conditions=[told], pending_resize=waiting, cpu={"limit": 50})
    paper.on("GET", SERVER, server)
    paper.on("GET", "/servers", page(server))
    shown = run("server", "show", "web").stdout
    assert re.search(r"ReconfigurePendingPowerCycle +A resize waits\.", shown)
    assert re.search(r"resize that waits +vCPUs: 2 -> 1", shown)
    assert re.search(r"cpu +limit 50", shown)


def test_wanted_resources(paper: PaperApi) -> None:
    path = f"{SERVER}/resources"
    size = ("--vcpus", "2", "--memory", "192", "--disk", "4")
    paper.on("PUT", path, {"changed": True, "operation": an_operation(verb="resize"), "plans": []})
    assert "resize accepted" in run("server", "resources", "web", *size).stdout
    waits = an_operation(verb="resize", phase="succeeded", deferred=True)
    paper.on("PUT", path, {"changed": True, "operation": waits, "plans": []})
    assert "the resize waits" in run("server", "resources", "web", *size, "--defer").stdout
    paper.on("PUT", path, {"changed": False, "operation": None, "plans": []})
    told = run("server", "resources", "web", *size, "--data", "d=5", "--remove-disks", "keep")
    assert "nothing to do" in told.stdout
    bodies = paper.bodies("PUT", path)
    assert "disks" not in bodies[0]
    assert bodies[2]["disks"] == [{"name": "d", "size_gib": 5}]
    assert bodies[2]["remove_disks"] == "keep"
    run("server", "resources", "web", *size, "--data", "d", code=2)


def test_a_plan_is_printed_and_can_be_brought_back(paper: PaperApi) -> None:
    path = f"{SERVER}/actions/resize"
    paper.on("POST", path, a_plan())
    shown = run("server", "resize", "web", "--memory", "1024", "--dry-run", "--wait")
    assert "plan to resize; nothing was done" in shown.stdout
    assert re.search(r"power_cycle +memory +192 MiB +1 GiB", shown.stdout)
    assert re.search(r"recreate +server +active +-", shown.stdout)
    assert re.search(r"free on alpha then +3 vCPU, 512 MiB, 9 GiB", shown.stdout)
    assert re.search(r"quota left then +4 servers, 1024 MiB, 7 GiB, 50 snapshots", shown.stdout)
    assert "A root disk never shrinks again." in shown.stdout
    assert f"--as-planned {DIGEST}" in shown.stderr
    assert paper.sent("POST", path)[-1].url.params["dry_run"] == "true"
    asked = run("server", "resize", "web", "--memory", "1024", "--dry-run", "-o", "json")
    assert json.loads(asked.stdout) == a_plan()
    paper.on("POST", path, an_operation(verb="resize"))
    run("server", "resize", "web", "--memory", "1024", "--as-planned", DIGEST)
    assert dict(paper.sent("POST", path)[-1].url.params) == {"plan": DIGEST}
    paper.on("POST", path, a_problem(409, "plan-outdated", "status: now stopped"))
    refused = run("server", "resize", "web", "--vcpus", "2", "--as-planned", DIGEST, code=4)
    assert "status: now stopped" in refused.stderr


@pytest.mark.parametrize(
    ("words", "method", "path"),
    [
        (["server", "create", "new"], "POST", "/servers"),
        (["create", "new"], "POST", "/servers"),
        (["server", "start", "web"], "POST", f"{SERVER}/actions/start"),
        (["server", "stop", "web"], "POST", f"{SERVER}/actions/stop"),
        (["server", "reboot", "web"], "POST", f"{SERVER}/actions/reboot"),
        (["server", "suspend", "web"], "POST", f"{SERVER}/actions/suspend"),
        (["server", "resume", "web"], "POST", f"{SERVER}/actions/resume"),
        (["server", "rebuild", "web"], "POST", f"{SERVER}/actions/rebuild"),
        (["server", "configure", "web"], "POST", f"{SERVER}/actions/configure"),
        (["server", "resize", "web"], "POST", f"{SERVER}/actions/resize"),
        (["server", "delete", "web"], "DELETE", SERVER),
        (["delete", "web"], "DELETE", SERVER),
        (["snapshot", "create", "web"], "POST", f"{SERVER}/snapshots"),
        (["snapshot", "revert", "web", "one"], "POST", f"{SERVER}/snapshots/1/actions/revert"),
        (["snapshot", "delete", "web", "one"], "DELETE", f"{SERVER}/snapshots/1"),
    ],
)
def test_every_verb_can_be_foreseen_and_nobody_is_asked(
    paper: PaperApi, words: list[str], method: str, path: str
) -> None:
    paper.on(method, path, a_plan())
    paper.on("GET", f"{SERVER}/snapshots", page({"id": "1", "name": "one", "phase": "ready"}))
    done = run(*words, "--dry-run")
    assert "nothing was done" in done.stdout
    (sent,) = paper.sent(method, path)
    assert dict(sent.url.params).get("dry_run") == "true"
    assert "--dry-run" in run(*words[: 2 if words[0] in {"server", "snapshot"} else 1], "-h").stdout


def test_of_several_each_has_its_plan(paper: PaperApi) -> None:
    answers = [a_plan(), a_problem(409, "conflict", "is stopped")]
    paper.on("POST", f"{SERVER}/actions/stop", answers)
    done = run("server", "stop", "web", "web", "--dry-run", "-o", "json", code=4)
    assert json.loads(done.stdout) == [a_plan()]


def test_a_maintenance_window_is_set_and_taken_away(paper: PaperApi) -> None:
    paper.on("PATCH", SERVER, a_server())
    run("server", "set", "web", "--window", "Sun 02:00-04:00")
    run("server", "set", "web", "--window", "", "--description", "d")
    assert paper.bodies("PATCH", SERVER) == [
        {"maintenance_window": "Sun 02:00-04:00"},
        {"maintenance_window": None, "description": "d"},
    ]
    run("server", "set", "web", code=2)
