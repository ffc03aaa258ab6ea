"""What Terraform prints, as errors of ours: one clear sentence, no colours, no secrets."""

import re

from innkeeper.errors import HostUnreachable, InnkeeperError, PermanentError, TransientError

TEXT_LIMIT = 500  # characters of Terraform's own words in an error


class TerraformFailed(PermanentError):
    """Terraform refused or failed for a reason that will not pass by itself."""

    slug = "terraform-failed"
    title = "Terraform failed"


class TerraformInterrupted(TransientError):
    """Terraform was busy, was stopped at its deadline, or lost a connection."""

    slug = "terraform-interrupted"
    title = "Terraform interrupted"


class SubstrateBusy(TransientError):
    """Another run works on the same host or network."""

    slug = "substrate-busy"
    title = "Substrate busy"


class StateUnreachable(TransientError):
    """The database that keeps the Terraform states does not answer."""

    slug = "terraform-state-unreachable"
    title = "Terraform state unreachable"


class DestructiveChange(PermanentError):
    """The plan would delete or replace something that servers may stand on."""

    status = 409
    slug = "destructive-change"
    title = "Destructive change"


_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONNECTION_STRING = re.compile(r"\b(postgres(?:ql)?(?:\+\w+)?)://[^\s'\"]+", re.IGNORECASE)
_PASSWORD = re.compile(r"\b(password)\s*=\s*('[^']*'|\S+)", re.IGNORECASE)
_WHERE = re.compile(r"^\s*(with .+,|on .+ line \d+.*:?|\d+: .*)$")

# First match wins; compared in lower case. Observed with Terraform 1.11 and the provider 0.8.3.
_TRANSIENT: tuple[tuple[str, type[InnkeeperError]], ...] = (
    ("error acquiring the state lock", SubstrateBusy),
    ("locked for workspace creation", SubstrateBusy),
    ("asynchronous jobs running", SubstrateBusy),
    ("failed to connect to libvirt", HostUnreachable),
    ("failed to dial libvirt", HostUnreachable),
    ("libvirt-sock", HostUnreachable),
    ("client socket is closed", HostUnreachable),
    ("failed to connect to", TerraformInterrupted),
    ("duplicate key value", TerraformInterrupted),  # two first users made the schema at once
    ("pq: the database system is", StateUnreachable),
    ("pq: terminating connection", StateUnreachable),
    ("driver: bad connection", StateUnreachable),
    ("connection refused", TerraformInterrupted),
    ("connection reset", TerraformInterrupted),
    ("broken pipe", TerraformInterrupted),
    ("i/o timeout", TerraformInterrupted),
    ("unexpected eof", TerraformInterrupted),
    ("plugin did not respond", TerraformInterrupted),
    ("operation canceled", TerraformInterrupted),
    ("saved plan is stale", TerraformInterrupted),
)


def redact(text: str) -> str:
    """Return the text without colours, connection strings and passwords."""
    plain = _COLOUR.sub("", text)
    return _PASSWORD.sub(r"\1=…", _CONNECTION_STRING.sub(r"\1://…", plain))


def first_error(output: str) -> str:
    """Return the first "Error:" block of Terraform's output as one line, or its last line.

    Source positions are left out: they mean nothing to somebody who asked for a server.
    """
    lines = [line.strip("│╷╵ \t") for line in redact(output).splitlines()]
    try:
        start = next(i for i, line in enumerate(lines) if line.startswith("Error: "))
    except StopIteration:
        said = [line for line in lines if line]
        return said[-1][:TEXT_LIMIT] if said else "it said nothing"
    block = [lines[start].removeprefix("Error: ")]
    for line in lines[start + 1 :]:
        if line.startswith(("Error: ", "Warning: ")):
            break
        if line and not _WHERE.match(line):
            block.append(line)
    text = " ".join(dict.fromkeys(block))  # the detail often repeats the summary
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 1] + "…"


def failure(action: str, workspace: str, output: str) -> InnkeeperError:
    """Return the error that Terraform's output means; `action` is what it was asked to do."""
    said = first_error(output).rstrip(".")
    lowered = said.lower()
    for part, kind in _TRANSIENT:
        if part in lowered:
            return kind(f"Terraform could not {action} {workspace}: {said}.")
    return TerraformFailed(
        f"Terraform could not {action} {workspace}: {said}. Correct that on the host or in "
        "terraform/, then retry the operation."
    )
