"""A writer whose records were acknowledged as durable loses none, whatever is done to its server.

Live clones are in test_clones.py, snapshots of a writer that does not wait for its disk elsewhere.
"""

from typing import Any

import pytest

from e2e.estate import Estate, eventually, unique
from e2e.test_clones import clone, deleted, sh
from innkeeper.cli.client import Json

WRITER = """
import hashlib, os, sys, time
path, acknowledged = "/root/ledger", "/dev/shm/acknowledged"
number = sum(1 for _ in open(path)) if os.path.exists(path) else 0
with open(path, "a") as out:
    while True:
        text = f"{number} " + "x" * (number % 700)
        out.write(f"{hashlib.sha256(text.encode()).hexdigest()} {text}\\n")
        out.flush()
        os.fsync(out.fileno())
        number += 1
        with open(acknowledged + ".new", "w") as ack:
            ack.write(str(number))
        os.rename(acknowledged + ".new", acknowledged)
        time.sleep(0.005)
"""
CHECK = """
import hashlib
lines = open("/root/ledger").read().split("\\n")
torn = lines.pop()
for number, line in enumerate(lines):
    digest, text = line.split(" ", 1)
    assert hashlib.sha256(text.encode()).hexdigest() == digest, number
    assert text.split(" ")[0] == str(number), number
print(len(lines))
"""
"""A last record that was never acknowledged may be torn; those before it may not."""


class Ledger:
    """A server in which somebody keeps a ledger."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        self.server = estate.done(estate.create(unique("ledger")))
        self.sh(f"cat > /root/writer.py <<'END'\n{WRITER}\nEND")
        self.sh(f"cat > /root/check.py <<'END'\n{CHECK}\nEND\nsync")

    def sh(self, script: str, server: Json | None = None) -> str:
        return sh(self.estate, server or self.server, script)

    def write(self) -> None:
        """Have the writer go on, and wait until it has written some more."""
        self.sh("(trap '' HUP; exec python3 /root/writer.py) >/dev/null 2>&1 </dev/null &")
        before = self.acknowledged()
        eventually(lambda: self.acknowledged() > before + 50, what="records")

    def acknowledged(self) -> int:
        return int(self.sh("cat /dev/shm/acknowledged 2>/dev/null || echo 0"))

    def kept(self, server: Json | None = None) -> int:
        """Return how many records there are, all whole and in order."""
        return int(self.sh("python3 /root/check.py", server))

    def done(self, operation: Json) -> None:
        self.server = self.estate.done(operation)

    def post(self, path: str, **body: Any) -> Json:
        answer: Json = self.estate.client.post(f"/servers/{self.server['id']}/{path}", body)
        return answer


@pytest.fixture
def ledger(estate: Estate) -> Ledger:
    estate.clear()
    return Ledger(estate)


def test_what_was_acknowledged_is_there(estate: Estate, ledger: Ledger) -> None:
    ledger.write()
    process, owed = ledger.sh("pidof python3"), ledger.acknowledged()
    ledger.done(estate.act(ledger.server, "suspend"))
    ledger.done(estate.act(ledger.server, "resume"))
    assert ledger.sh("pidof python3") == process
    eventually(lambda: ledger.acknowledged() > owed + 50, what="records after the resume")

    owed = ledger.acknowledged()
    ledger.done(ledger.post("snapshots", name="kept", quiesce="required"))
    twin = estate.done(clone(estate, ledger.server, unique("twin"), snapshot="kept"))
    assert ledger.kept(twin) >= owed
    deleted(estate, twin)
    (kept,) = estate.client.items(f"/servers/{ledger.server['id']}/snapshots")
    ledger.done(ledger.post(f"snapshots/{kept['id']}/actions/revert"))
    assert ledger.kept() >= owed

    ledger.write()
    ledger.done(estate.client.delete(f"/servers/{ledger.server['id']}/snapshots/{kept['id']}"))
    owed = ledger.acknowledged()
    ledger.done(estate.act(ledger.server, "shelve"))
    there = {"lab1": "lab2", "lab2": "lab1"}[ledger.server["host"]]
    ledger.done(estate.act(ledger.server, "unshelve", host=there))
    assert ledger.server["host"] == there
    assert ledger.kept() >= owed
    assert estate.audit() == []
