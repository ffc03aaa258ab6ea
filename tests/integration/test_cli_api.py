"""The command line against the real API over TCP; a thread plays the worker with the journal."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from innkeeper import dispatch
from innkeeper.api.app import create_app
from innkeeper.cli.main import app
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.steps import STEPS
from innkeeper.errors import OperationCancelled
from innkeeper.services import journal, keys
from innkeeper.services.views import OperationView
from innkeeper.settings import settings

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

RUNNER = CliRunner()


class PaperWorker:
    """Walks operations through the journal and touches no host."""

    def __init__(self) -> None:
        self.step_seconds = 0.0
        self.fails_at: str | None = None
        self.threads: list[threading.Thread] = []

    def dispatch(self, operation: OperationView) -> None:
        thread = threading.Thread(target=self._run, args=(operation,))
        self.threads.append(thread)
        thread.start()

    def _run(self, operation: OperationView) -> None:
        claim = journal.claim(operation.id)
        try:
            for step in STEPS[operation.verb]:
                journal.begin(claim, step)
                time.sleep(self.step_seconds)
                if step == self.fails_at:
                    journal.fail(claim, step, "The pool is full.")
                    journal.undoing(claim, "The pool is full.")
                    journal.undone(claim)
                    return
                journal.end(claim, step, detail=f"made {step}")
        except OperationCancelled as cancelled:
            journal.undoing(claim, str(cancelled))
            journal.undone(claim)
            return
        journal.complete(claim)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[PaperWorker]:
    paper = PaperWorker()
    monkeypatch.setattr(dispatch, "dispatch", paper.dispatch)
    yield paper
    paper.join()


@pytest.fixture
def api(
    catalogue: Any, worker: PaperWorker, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """Serve the API on a free port; the admin's key is in the home, as `make up` leaves it."""
    _, plaintext = keys.create("admin", "admin", None)
    (home / "admin.key").write_text(plaintext)
    server = uvicorn.Server(
        uvicorn.Config(create_app(), port=0, log_level="warning", ws="none", lifespan="on")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("INNKEEPER_API_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("INNKEEPER_PROJECT", raising=False)
    settings.cache_clear()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


def run(*words: str, code: int = 0) -> Any:
    result = RUNNER.invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def data(*words: str) -> Any:
    return json.loads(run(*words, "-o", "json").stdout)


def test_life_of_a_server(api: str, worker: PaperWorker) -> None:
    worker.step_seconds = 0.05
    created = run("create", "web", "--plan", "tiny", "--root-password", "--wait")
    told = [line for line in created.stderr.splitlines() if "done" in line]
    assert [line.split()[3] for line in told] == list(STEPS[Verb.CREATE])
    assert "made volume" in told[1]
    assert created.stdout.startswith("web is active")
    server = data("server", "show", "web")
    assert server["status"] == "active"
    assert f":{server['ssh_port']}" in run("list").stdout
    assert "web is stopped" in run("server", "stop", "web", "--wait").stdout
    assert "has to be active first" in run("server", "reboot", "web", code=4).stderr
    assert "web is active" in run("server", "start", "web", "--wait").stdout
    run("server", "reboot", "web", "--hard", "--wait")
    run("server", "configure", "web", "--wait")
    run("server", "rebuild", "web", "--yes", "--wait")
    secret = run("server", "password", "web").stdout.strip()
    assert len(secret) > 8
    assert secret not in run("server", "password", "web", code=3).output
    assert run("delete", "web", "--yes", "--wait").stdout == "web is deleted\n"
    assert data("list") == []
    assert [one["status"] for one in data("list", "--deleted")] == ["deleted"]
    verbs = [one["verb"] for one in data("operation", "list")]
    assert verbs == ["delete", "rebuild", "configure", "reboot", "start", "stop", "create"]
    kinds = [one["kind"] for one in data("event", "list", "--limit", "200")]
    assert "server.create.done" in kinds
    assert kinds.index("server.create.done") < kinds.index("server.delete.done")


def test_ssh_line_of_a_real_server(api: str) -> None:
    run("create", "web", "--plan", "tiny", "--wait")
    server = data("server", "show", "web")
    printed = run("ssh", "--print", "web", "--", "uptime").stdout.split()
    known = next(word for word in printed if word.startswith("UserKnownHostsFile="))
    line = Path(known.partition("=")[2]).read_text()
    key = " ".join(server["host_key"].split()[:2])
    assert line == f"[127.0.0.1]:{server['ssh_port']} {key}\n"


def test_several_at_once_within_the_quota(api: str, catalogue: Any, worker: PaperWorker) -> None:
    catalogue.set_quota(servers=3)
    worker.step_seconds = 0.02
    result = run("create", "web", "--plan", "tiny", "--count", "5", "--wait", code=4)
    for number in (1, 2, 3):
        assert f"web-{number} is active" in result.stdout
    assert "quota" in result.stderr.lower()
    assert len(data("list", "--name", "web")) == 3
    quota = data("project", "quota", "show", "default")
    assert (quota["used_servers"], quota["servers"]) == (3, 3)


def test_failure_of_a_step_is_told_with_its_reason(api: str, worker: PaperWorker) -> None:
    worker.fails_at, worker.step_seconds = "volume", 0.02
    result = run("create", "web", "--plan", "tiny", "--wait", code=1)
    assert "The pool is full." in result.stderr
    assert data("server", "show", "web")["status"] == "error"
    operation = data("operation", "list", "--server", "web")[0]
    assert operation["phase"] == Phase.FAILED
    assert "The pool is full." in run("operation", "show", operation["id"]).stdout
    run("operation", "watch", operation["id"], code=1)
    worker.fails_at = None
    run("delete", "web", "-y", "--wait")


def test_cancel(api: str, worker: PaperWorker) -> None:
    worker.step_seconds = 0.3
    operation = data("create", "web", "--plan", "tiny")
    result = run("operation", "cancel", operation["id"], "--wait")
    assert "cancelled" in result.stdout
    run("operation", "cancel", operation["id"], code=4)


def test_repeated_request_with_one_key_is_one_server(api: str) -> None:
    words = ("create", "web", "--plan", "tiny", "--idempotency-key", "once")
    assert data(*words)["id"] == data(*words)["id"]
    run("create", "web", "--plan", "small", "--idempotency-key", "once", code=4)


def test_refusals(api: str) -> None:
    invalid = run("create", "Not_a_name", "--plan", "tiny", code=2)
    assert "/name" in invalid.stderr
    run("create", "web", "--plan", "no-such-plan", code=3)
    run("create", "web", "--plan", "tiny", "--project", "no-such-project", code=3)
    run("server", "show", "nobody", code=3)
    run("server", "list", "--project", "nowhere", code=3)
    run("operation", "show", "00000000-0000-0000-0000-000000000000", code=3)


def test_keys_of_projects_see_their_own(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "web", "--plan", "tiny", "--wait")
    run("project", "create", "shop", "--servers", "1")
    created = data("key", "create", "alice", "--role", "user", "--project", "shop")
    monkeypatch.setenv("INNKEEPER_API_KEY", created["key"])
    assert data("list") == []
    run("server", "show", "web", code=3)
    run("host", "list", code=6)
    run("key", "list", code=6)
    run("create", "mine", "--plan", "tiny", "--wait")
    run("create", "second", "--plan", "tiny", code=4)
    monkeypatch.delenv("INNKEEPER_API_KEY")
    assert {one["project"] for one in data("list")} == {"default", "shop"}
    assert len(data("list", "--project", "shop")) == 1
    run("key", "revoke", "alice", "-y")
    monkeypatch.setenv("INNKEEPER_API_KEY", created["key"])
    assert "key" in run("list", code=6).stderr


def test_catalogue(api: str) -> None:
    run("plan", "create", "huge", "--vcpus", "64", "--memory-mib", "1024", "--disk-gib", "1")
    assert "huge" in run("plan", "list").stdout
    assert data("plan", "show", "huge")["vcpus"] == 64
    assert "Quota exceeded" in run("create", "web", "--plan", "huge", code=4).stderr
    unlimited = run("project", "quota", "set", "default", "--servers", "-1", "--vcpus", "-1")
    assert unlimited.stdout.count("none") == 2
    assert "No host fits" in run("create", "web", "--plan", "huge", code=4).stderr
    run("plan", "delete", "huge")
    run("plan", "show", "huge", code=3)
    assert [host["name"] for host in data("host", "list")] == ["alpha", "beta"]
    assert data("host", "disable", "alpha")["enabled"] is False
    assert "disabled" in run("host", "list").stdout
    run("host", "enable", "alpha")
    run("host", "remove", "beta")
    assert [host["name"] for host in data("host", "list")] == ["alpha"]
    assert "ready" in run("image", "list").stdout
    assert data("image", "show", "debian")["phase"] == "ready"
    assert isinstance(data("role", "list"), list)


def test_host_of_the_test_driver_is_added(api: str, home: Path) -> None:
    found = data("host", "add", "gamma", "test:///default", "--edge-address", "127.0.0.1")
    assert found["virt_type"] == "test"
    run("host", "add", "gamma", "test:///default", code=4)
