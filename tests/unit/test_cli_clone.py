"""The command `clone`: what it sends and prints."""

import json
from pathlib import Path

from paper_api import PaperApi, an_operation, finished, ident, run

CLONES = f"/servers/{ident('web')}/clones"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGyoPZtVgB1SpLRnmCJp0v6RTwTq0SH6lvYfyK0dcyX a"


def test_a_clone_is_asked_for(paper: PaperApi, tmp_path: Path) -> None:
    paper.on("POST", CLONES, an_operation("twin", "clone"))
    (tmp_path / "ud").write_text("#!/bin/sh\n")
    options = ("--full", "--snapshot", "before", "--quiesce", "off", "--plan", "large")
    more = ("--disk", "9", "--ssh-key", KEY, "--user-data", str(tmp_path / "ud"))
    told = run("clone", "web", "twin", *options, *more, "--idempotency-key", "k")
    assert told.stdout == "twin: clone accepted\n"
    assert run("server", "clone", "web", "twin").stdout == "twin: clone accepted\n"
    plain = {"name": "twin", "root_password": False, "description": ""}
    assert paper.bodies("POST", CLONES) == [
        plain
        | {"mode": "full", "snapshot": "before", "quiesce": "off", "plan": "large", "disk_gib": 9}
        | {"ssh_keys": [KEY], "user_data": "#!/bin/sh\n"},
        plain | {"mode": "linked", "quiesce": "auto"},
    ]
    keys = [request.headers.get("Idempotency-Key") for request in paper.sent("POST", CLONES)]
    assert keys[0] == "k"
    run("clone", "web", "twin", "--quiesce", "maybe", code=2)


def test_the_end_of_a_clone_is_told(paper: PaperApi) -> None:
    paper.on("POST", CLONES, an_operation("twin", "clone"))
    paper.on("GET", "/operations/.*", finished("twin", "clone"))
    told = run("clone", "web", "twin", "--wait", "-o", "json").stdout
    assert json.loads(told)["verb"] == "clone"
