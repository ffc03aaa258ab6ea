"""The commands of snapshots: what they send and print."""

import json
import re
from typing import Any

import pytest
from paper_api import NOW, PROJECT, PaperApi, an_operation, finished, ident, page, run, stream


def a_snapshot(name: str, parent: str | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "id": ident(f"snapshot {name}"),
        "server_id": ident("web"),
        "project_id": PROJECT,
        "parent_id": ident(f"snapshot {parent}") if parent else None,
        "name": name,
        "description": "",
        "kind": "quiesced",
        "memory": False,
        "phase": "ready",
        "size_bytes": 3 << 19,
        "current": False,
        "enabled": True,
        "max_age_seconds": None,
        "delete_on_server_delete": True,
        "policy_id": None,
        "fault": None,
        "created_at": NOW,
        "expires_at": None,
    } | changes


SNAPSHOTS = f"/servers/{ident('web')}/snapshots"


def test_snapshots_are_listed_as_a_tree(paper: PaperApi) -> None:
    entries = [
        a_snapshot("fix", "base", current=True),
        a_snapshot("try", "base"),
        a_snapshot("base", memory=True, kind="memory"),
    ]
    paper.on("GET", SNAPSHOTS, page(*entries))
    lines = run("snapshot", "list", "web").stdout.splitlines()[1:]
    assert [line.split("ready")[0].rstrip() for line in lines] == ["base", "  try", "  * fix"]
    assert "1.5" in lines[0]
    shown = run("snapshot", "show", "web", "base").stdout
    assert re.search(r"size +1\.5 MiB", shown)
    assert json.loads(run("snapshot", "list", "web", "-o", "json").stdout) == entries
    assert json.loads(run("snapshot", "show", "web", "try", "-o", "json").stdout) == entries[1]
    run("snapshot", "show", "web", "none", code=3)


def test_snapshots_are_taken_reverted_to_and_deleted(paper: PaperApi) -> None:
    failed = a_snapshot("one", phase="failed") | {"id": ident("failed")}
    paper.on("GET", SNAPSHOTS, page(failed, a_snapshot("one")))
    paper.on("POST", SNAPSHOTS, an_operation(verb="snapshot"))
    one = f"{SNAPSHOTS}/{ident('snapshot one')}"
    paper.on("POST", f"{one}/actions/revert", an_operation(verb="revert"))
    paper.on("DELETE", one, an_operation(verb="delete-snapshot"))
    options = ("--memory", "--quiesce", "off", "--description", "d", "--max-age", "60", "--keep")
    assert "snapshot accepted" in run("snapshot", "create", "web", "one", *options).stdout
    run("snapshot", "create", "web")
    plain = {"memory": False, "quiesce": "auto", "description": "", "delete_on_server_delete": True}
    assert paper.bodies("POST", SNAPSHOTS) == [
        {
            "name": "one",
            "memory": True,
            "quiesce": "off",
            "description": "d",
            "max_age": 60,
            "delete_on_server_delete": False,
        },
        plain,
    ]
    run("snapshot", "create", "web", "--quiesce", "maybe", code=2)
    run("snapshot", "revert", "web", "one", code=2)
    assert paper.sent("POST", f"{one}/actions/revert") == []
    assert "revert accepted" in run("snapshot", "revert", "web", "one", "--yes").stdout
    assert "delete-snapshot accepted" in run("snapshot", "delete", "web", "one", "-y").stdout
    assert len(paper.sent("DELETE", one)) == 1


def test_what_is_said_of_a_snapshot_is_changed(paper: PaperApi) -> None:
    paper.on("GET", SNAPSHOTS, page(a_snapshot("one")))
    one = f"{SNAPSHOTS}/{ident('snapshot one')}"
    paper.on("PATCH", one, a_snapshot("one"))
    run("snapshot", "set", "web", "one", code=2)
    run("snapshot", "set", "web", "one", "--disable", "--keep", "--max-age", "0")
    assert run("snapshot", "set", "web", "one", "--description", "d").stdout == "one is changed\n"
    assert paper.bodies("PATCH", one) == [
        {"enabled": False, "delete_on_server_delete": False, "max_age": None},
        {"description": "d"},
    ]


@pytest.mark.parametrize(
    ("verb", "told"), [("snapshot", "snapshot is ready"), ("delete-snapshot", "is deleted")]
)
def test_the_end_of_a_snapshot_is_told(paper: PaperApi, verb: str, told: str) -> None:
    ended = finished(verb=verb)
    paper.on("GET", f"/operations/{ended['id']}", ended)
    paper.on("GET", f"/operations/{ended['id']}/events", stream(("end", ended)))
    assert told in run("operation", "watch", ended["id"]).stdout


@pytest.mark.parametrize(("outcome", "code"), [("verified", 0), ("failed", 1)])
def test_one_is_verified(paper: PaperApi, outcome: str, code: int) -> None:
    seen = a_snapshot(
        "one",
        verification=outcome,
        verification_detail="it booted",
        verification_seconds=7.5,
        verified_at="2026-11-01T12:00:00Z",
    )
    one = f"{SNAPSHOTS}/{ident('snapshot one')}"
    ended = finished(verb="verify-snapshot")
    paper.on("GET", SNAPSHOTS, page(seen))
    paper.on("GET", one, seen)
    paper.on("POST", f"{one}/actions/verify", an_operation(verb="verify-snapshot"))
    paper.on("GET", f"/operations/{ended['id']}", ended)
    paper.on("GET", f"/operations/{ended['id']}/events", stream(("end", ended)))
    assert "accepted" in run("snapshot", "verify", "web", "one").stdout
    told = run("snapshot", "verify", "web", "one", "--wait", code=code).stdout
    assert f"one is {outcome}: it booted" in told
    assert ("yes" if outcome == "verified" else outcome) in run("snapshot", "list", "web").stdout
