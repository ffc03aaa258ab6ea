"""The commands of data disks: what they send and print."""

import json
import re
import shlex
from typing import Any

import httpx
from paper_api import NOW, PROJECT, PaperApi, an_operation, ident, page, run

FULL = (
    "attach web --name data --size 5 --pool ssd --boot-order 1 --format raw --cache none "
    "--no-discard --read-only --iops 100 --throughput 20 --keep"
)
ACTIONS = f"/servers/{ident('web')}/actions"


def a_disk(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": ident(f"disk {name}"),
        "project_id": PROJECT,
        "name": name,
        "phase": "attached",
        "server_id": ident("web"),
        "server": "web",
        "host": "alpha",
        "size_gib": 5,
        "format": "qcow2",
        "target": "vdb",
        "device": "/dev/disk/by-id/virtio-0123456789abcdef0123",
        "cache": "writeback",
        "discard": True,
        "read_only": False,
        "iops": None,
        "throughput_mib": None,
        "delete_on_server_delete": True,
        "created_at": NOW,
    } | changes


def test_disks_are_listed_and_shown(paper: PaperApi) -> None:
    kept = a_disk("kept", phase="available", server_id=None, server=None, target=None, iops=300)
    going = a_disk("kept", phase="deleting") | {"id": ident("going")}
    entries = [going, kept, a_disk("data")]
    paper.on("GET", "/disks", page(*entries))
    lines = run("disk", "list").stdout.splitlines()[1:]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["kept", "available", "alpha"],
        ["data", "attached", "web"],
    ]
    assert "virtio-0123456789abcdef0123" in lines[2]
    assert json.loads(run("disk", "list", "web", "-o", "json").stdout) == entries
    assert paper.sent("GET", "/disks")[-1].url.params["server_id"] == ident("web")
    shown = run("disk", "show", "kept").stdout
    assert re.search(r"most requests +300 a second", shown)
    assert "available" in shown
    assert json.loads(run("disk", "show", "data", "-o", "json").stdout) == entries[2]
    run("disk", "show", "none", code=3)


def test_disks_are_attached_detached_and_grown(paper: PaperApi) -> None:
    for verb in ("attach-disk", "detach-disk", "grow-disk"):
        paper.on("POST", f"{ACTIONS}/{verb}", an_operation(verb=verb))
    for command, verb, body in (
        (["attach", "web", "--name", "data"], "attach-disk", {"name": "data"}),
        (
            shlex.split(FULL),
            "attach-disk",
            {
                "name": "data",
                "size_gib": 5,
                "pool": "ssd",
                "boot_order": 1,
                "format": "raw",
                "cache": "none",
                "discard": False,
                "read_only": True,
                "iops": 100,
                "throughput_mib": 20,
                "delete_on_server_delete": False,
            },
        ),
        (
            ["detach", "web", "data"],
            "detach-disk",
            {"disk": "data", "keep": True, "force": False},
        ),
        (
            ["detach", "web", "data", "--delete", "--force", "--yes"],
            "detach-disk",
            {"disk": "data", "keep": False, "force": True},
        ),
        (
            ["grow", "web", "data", "--size", "9", "--expand-offline"],
            "grow-disk",
            {"disk": "data", "size_gib": 9, "expand": "offline"},
        ),
    ):
        run("disk", *command)
        assert paper.bodies("POST", f"{ACTIONS}/{verb}")[-1] == body
    run("disk", "attach", "web", "--name", "data", "--size", "2049", code=2)
    run("disk", "grow", "web", "data", code=2)


def test_a_kept_disk_is_deleted_after_a_question(paper: PaperApi) -> None:
    paper.on("GET", "/disks", page(a_disk("data")))
    path = f"/disks/{ident('disk data')}"
    paper.on("DELETE", path, httpx.Response(204))
    assert "data is deleted" in run("disk", "delete", "data", "--yes").stdout
    assert len(paper.sent("DELETE", path)) == 1


def test_the_plan_of_a_deletion_is_shown_without_a_question(paper: PaperApi) -> None:
    paper.on("GET", "/disks", page(a_disk("data")))
    path = f"/disks/{ident('disk data')}"
    change = {"effect": "recreate", "subject": "disk data", "before": "5 GiB", "after": None}
    room = {"name": "alpha", "free_vcpus": 4, "free_memory_mib": 512, "free_disk_gib": 105}
    left = dict.fromkeys(
        ("servers", "vcpus", "memory_mib", "snapshots", "snapshot_gib", "isolated_networks")
    )
    plan = {
        "verb": "delete-disk",
        "server_id": None,
        "server": None,
        "changes": [change],
        "interruption": "none",
        "host": room,
        "quota": left | {"disk_gib": 95},
        "warnings": ["Everything on 'data' is lost."],
        "steps": [],
        "digest": "p1-abc",
    }
    paper.on("DELETE", path, plan)
    shown = run("disk", "delete", "data", "--dry-run").stdout
    assert "disk data: plan to delete-disk; nothing was done" in shown
    assert "Everything on 'data' is lost." in shown
    assert paper.sent("DELETE", path)[-1].url.params["dry_run"] == "true"
    assert json.loads(run("disk", "delete", "data", "--dry-run", "-o", "json").stdout) == plan
    paper.on("DELETE", path, httpx.Response(204))
    run("disk", "delete", "data", "--yes", "--as-planned", "p1-abc")
    assert paper.sent("DELETE", path)[-1].url.params["plan"] == "p1-abc"
