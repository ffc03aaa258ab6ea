"""Programs that the QEMU guest agent runs in a guest (guest-exec)."""

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from innkeeper.hypervisor.errors import OperationTimedOut, translated

_ANSWER_SECONDS = 10
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Ended:
    """How a program in the guest ended, and what it said on both of its streams."""

    code: int
    output: str
    errors: str


def execute(
    conn: libvirt.virConnect, server_id: UUID, argv: Sequence[str], *, seconds: float
) -> Ended:
    """Run a program in the guest as root and wait for its end.

    Raises:
        AgentUnavailable: no agent answers.
        NotSupported, HypervisorRefused: it may not run programs, or there is no such program.
        OperationTimedOut: it has not ended in time.
    """
    domain, (path, *arguments) = _domain(conn, server_id), argv
    started = _ask(domain, "guest-exec", {"path": path, "arg": arguments, "capture-output": True})
    deadline = time.monotonic() + seconds
    while True:
        status = _ask(domain, "guest-exec-status", {"pid": started["pid"]})
        if status["exited"]:
            said = [base64.b64decode(status.get(key, "")) for key in ("out-data", "err-data")]
            output, errors = (text.decode(errors="replace").strip() for text in said)
            return Ended(int(status.get("exitcode", -1)), output, errors)
        if time.monotonic() > deadline:
            raise OperationTimedOut(f"{path} still runs in the guest after {seconds:.0f} s.")
        time.sleep(_POLL_SECONDS)


@translated()
def _ask(domain: libvirt.virDomain, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    wish = json.dumps({"execute": command, "arguments": arguments})
    answer = libvirt_qemu.qemuAgentCommand(domain, wish, _ANSWER_SECONDS, 0)
    found: dict[str, Any] = json.loads(answer)["return"]
    return found


@translated()
def _domain(conn: libvirt.virConnect, server_id: UUID) -> libvirt.virDomain:
    return conn.lookupByUUIDString(str(server_id))
