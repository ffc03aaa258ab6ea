"""Programs run by the guest agent, and how a file system grows with its disk."""

import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import libvirt
import libvirt_qemu
import pytest

from innkeeper.hypervisor import agent
from innkeeper.hypervisor.errors import AgentUnavailable, OperationTimedOut
from tasks import resize

CONN: Any = SimpleNamespace(lookupByUUIDString=lambda _: "domain")


def answering(monkeypatch: pytest.MonkeyPatch, *statuses: dict[str, Any]) -> list[Any]:
    """Let an agent start program 7 and report these states; return what it was asked."""
    asked, waiting = [], list(statuses)

    def command(_domain: Any, wish: str, _seconds: int, _flags: int) -> str:
        asked.append(json.loads(wish))
        started = asked[-1]["execute"] == "guest-exec"
        return json.dumps({"return": {"pid": 7} if started else waiting.pop(0)})

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", command)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return asked


def test_a_program_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "exited": True,
        "exitcode": 3,
        "out-data": base64.b64encode(b"grown\n").decode(),
        "err-data": base64.b64encode(b"not quite\n").decode(),
    }
    asked = answering(monkeypatch, {"exited": False}, said)
    ended = agent.execute(CONN, uuid4(), ["/bin/sh", "-c", "true"], seconds=5)
    assert ended == agent.Ended(3, "grown", "not quite")
    assert asked[0]["arguments"] == {
        "path": "/bin/sh",
        "arg": ["-c", "true"],
        "capture-output": True,
    }
    assert [wish["execute"] for wish in asked[1:]] == ["guest-exec-status"] * 2


def test_a_signal_is_no_success_and_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"exited": True, "signal": 9})
    assert agent.execute(CONN, uuid4(), ["/bin/false"], seconds=5).code == -1
    answering(monkeypatch, {"exited": False})
    with pytest.raises(OperationTimedOut, match="still runs in the guest"):
        agent.execute(CONN, uuid4(), ["/bin/sleep"], seconds=-1)


def test_a_missing_agent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*_: Any) -> str:
        error = libvirt.libvirtError("no agent")
        error.err = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, 0, "not connected", 0, "", "", "", 0, 0)
        raise error

    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", command)
    with pytest.raises(AgentUnavailable):
        agent.execute(CONN, uuid4(), ["/bin/true"], seconds=5)


@pytest.fixture
def expanding(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], str]:
    """Return a way to grow a file system with an agent and a login that answer or fail."""

    def expand(by_agent: Any, by_login: Any) -> str:
        def give(answer: Any) -> Callable[..., Any]:
            def call(*_: Any, **__: Any) -> Any:
                if isinstance(answer, Exception):
                    raise answer
                return answer

            return call

        monkeypatch.setattr(resize, "connect", give(None))
        monkeypatch.setattr(resize, "target_of", give(None))
        monkeypatch.setattr(resize.agent, "execute", give(by_agent))
        monkeypatch.setattr(resize.login, "run", give(by_login))
        blueprint: Any = SimpleNamespace(host=SimpleNamespace(uri=""), server_id=uuid4())
        return resize._expand(blueprint)

    return expand


def test_a_file_system_grows_by_agent_else_by_login_else_later(
    expanding: Callable[[Any, Any], str],
) -> None:
    silent, closed = AgentUnavailable("no agent."), AgentUnavailable("no login.")
    assert expanding(agent.Ended(0, "2000 MiB", ""), closed) == "2000 MiB"
    assert expanding(silent, "2000 MiB\n") == "2000 MiB"
    told = expanding(silent, closed)
    assert told == "the disk has grown, its file system not: no agent. no login."
    assert "how to grow zfs" in expanding(agent.Ended(3, "", "do not know how to grow zfs"), "")
