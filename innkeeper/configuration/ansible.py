"""Apply roles to a guest with ansible-runner; blocking, safe to call from many threads at once."""

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from ansible_runner import Runner, RunnerConfig

from innkeeper.configuration import catalogue
from innkeeper.configuration.failure import (
    ConfigurationFailed,
    ConfigurationTimedOut,
    GuestUnreachable,
    HostKeyDiffers,
)
from innkeeper.configuration.rundir import run_folder
from innkeeper.configuration.target import Target
from innkeeper.domain.specs import RoleRequest
from innkeeper.errors import InnkeeperError, OperationCancelled
from innkeeper.settings import settings

_log = logging.getLogger(__name__)

TaskStatus = Literal["ok", "changed", "skipped", "failed", "unreachable"]
OnTask = Callable[[str, TaskStatus], None]

CANCEL_POLL_SECONDS = 1
TEXT_LIMIT = 800  # characters of a task's own words in an error
_RUNNER_SETTINGS = {
    "pexpect_timeout": CANCEL_POLL_SECONDS,
    "suppress_output_file": True,
    "suppress_ansible_output": True,
}
_INHERITED = frozenset({"HOME", "USER", "LOGNAME", "TMPDIR"})
_WRONG_KEY = ("REMOTE HOST IDENTIFICATION HAS CHANGED", "Host key verification failed")
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Outcome:
    """How many tasks ended how; `changed` ones are not among `ok`."""

    ok: int
    changed: int
    skipped: int


def configure(
    target: Target,
    roles: Sequence[RoleRequest],
    *,
    on_task: OnTask | None = None,
    deadline_seconds: float | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Outcome:
    """Apply the base role and then the requested roles, in order. Ensure-shaped: run it again.

    Args:
        target: the guest.
        roles: roles with their variables; values are data, never templates.
        on_task: is told the name and end of each task.
        deadline_seconds: for everything; `configure_seconds` of the settings when None.
        cancelled: asked about once a second; when true, Ansible is ended.

    Raises:
        RoleUnknown, RoleVariableInvalid: before anything is started.
        GuestUnreachable: the guest does not answer, or stopped answering.
        HostKeyDiffers: somebody else answers at its address.
        ConfigurationFailed: a task failed.
        ConfigurationTimedOut: the deadline passed.
        OperationCancelled: `cancelled` said so.
    """
    checked = [(role.name, catalogue.validate(role.name, role.variables)) for role in roles]
    secrets = [text for name, values in checked for text in catalogue.secrets(name, values)]
    seconds = deadline_seconds or settings().configure_seconds
    progress = _Progress(on_task)
    with run_folder() as folder:
        _write_files(folder, target, checked)
        config = RunnerConfig(
            private_data_dir=str(folder),
            playbook="play.yml",
            inventory=str(folder / "inventory.yml"),
            quiet=True,
            timeout=max(1, round(seconds)),
        )
        config.prepare()
        config.env = _environment(folder, config.env)
        runner = Runner(
            config, event_handler=progress.take, cancel_callback=cancelled or (lambda: False)
        )
        status, _code = runner.run()
    if status == "successful":
        return progress.outcome()
    raise _failure(status, progress, target, secrets)


@dataclass
class _Progress:
    """What the events of a run add up to."""

    on_task: OnTask | None
    counts: dict[TaskStatus, int] = field(default_factory=dict)
    trouble: tuple[TaskStatus, str, Mapping[str, Any]] | None = None
    said: str = ""

    def take(self, event: Mapping[str, Any]) -> bool:
        """Count an event; never keep it on disk."""
        data = event.get("event_data") or {}
        kind = event.get("event")
        text = str(event.get("stdout") or "").strip()
        if text and kind in {"verbose", "error", "warning"}:
            self.said = text
        if kind == "runner_on_ok":
            self._end(data, "changed" if (data.get("res") or {}).get("changed") else "ok")
        elif kind == "runner_on_skipped":
            self._end(data, "skipped")
        elif kind == "runner_on_unreachable":
            self._end(data, "unreachable")
        elif kind == "runner_on_failed":
            self._end(data, "ok" if data.get("ignore_errors") else "failed")
        return False

    def _end(self, data: Mapping[str, Any], status: TaskStatus) -> None:
        self.counts[status] = self.counts.get(status, 0) + 1
        name = " : ".join(str(data[key]) for key in ("role", "task") if data.get(key))
        if status in {"failed", "unreachable"} and self.trouble is None:
            self.trouble = (status, name, data.get("res") or {})
        if self.on_task is not None:
            try:
                self.on_task(name, status)
            except Exception:  # noqa: BLE001 - a watcher that fails must not fail the configuration
                _log.exception("Could not report a task's end")

    def outcome(self) -> Outcome:
        """Return the counts of a run that succeeded."""
        seen = self.counts.get
        return Outcome(seen("ok", 0), seen("changed", 0), seen("skipped", 0))


def _write_files(folder: Path, target: Target, roles: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Write inventory, playbook and the pinned host key; all 0600."""
    place = target.host if target.port == 22 else f"[{target.host}]:{target.port}"  # noqa: PLR2004
    key = " ".join(target.host_key.split()[:2])
    _private(folder / "known_hosts", f"{place} {key}\n")
    for name in ("env", "project"):
        (folder / name).mkdir(mode=0o700)
    # The runner drops settings that it is given as arguments when this file is missing.
    _private(folder / "env" / "settings", _yaml(_RUNNER_SETTINGS))
    variables = {
        "ansible_host": target.host,
        "ansible_port": target.port,
        "ansible_user": target.user,
        "ansible_ssh_private_key_file": str(settings().identity_file),
        "ansible_ssh_common_args": _ssh_options(folder),
    }
    hosts = {"guests": {"hosts": {target.name or target.host: variables}}}
    _private(folder / "inventory.yml", _yaml({"all": {"children": hosts}}))
    play: list[dict[str, Any]] = [
        {"import_playbook": str(catalogue.ANSIBLE / "playbooks" / "site.yml")}
    ]
    if roles:
        play.append(
            {
                "name": "Apply the requested roles",
                "hosts": "guests",
                "gather_facts": False,
                "roles": [{"role": name, "vars": _unsafe(values)} for name, values in roles],
            }
        )
    _private(folder / "project" / "play.yml", _yaml(play))


def _ssh_options(folder: Path) -> str:
    options = {
        "UserKnownHostsFile": folder / "known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "PreferredAuthentications": "publickey",
        "ControlMaster": "auto",
        "ControlPersist": "60s",  # ended with the run's folder
        "ControlPath": folder / "ssh",  # one guest, one socket, and sockets need short paths
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
    }
    return " ".join(["-F", "/dev/null", *(f"-o {name}={value}" for name, value in options.items())])


def _environment(folder: Path, prepared: Mapping[str, str]) -> dict[str, str]:
    """Return what Ansible sees: its own settings, and none of our addresses and keys."""
    kept = {
        name: value
        for name, value in prepared.items()
        if name in _INHERITED or name.startswith(("AWX_", "RUNNER_"))
    }
    plugins = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK")
    return {
        **kept,
        **{name: prepared[name] for name in plugins},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "ANSIBLE_CONFIG": str(catalogue.ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder),
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "1",
    }


class _Unsafe(str):
    """A text that Ansible must not read as a template."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        del data
        return True


_Dumper.add_representer(
    _Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", str(text), style='"')
)


def _unsafe(value: Any) -> Any:
    """Return the value with every text in it marked: users choose it."""
    if isinstance(value, str):
        return _Unsafe(value)
    if isinstance(value, Mapping):
        return {str(key): _unsafe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_unsafe(inner) for inner in value]
    return value


def _yaml(document: Any) -> str:
    return str(yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False))


def _private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _failure(
    status: str, progress: _Progress, target: Target, secrets: list[str]
) -> InnkeeperError:
    server = target.name or f"{target.host}:{target.port}"
    if status == "canceled":
        return OperationCancelled(f"The configuration of {server} was cancelled.")
    if progress.trouble is None:
        if status == "timeout":
            return ConfigurationTimedOut(
                f"The roles were not applied to {server} in time: it is tried again."
            )
        said = catalogue.hidden(_short(progress.said or "it said nothing"), secrets)
        return ConfigurationFailed(
            f"Ansible could not start for {server}: {said}. Check the installation with "
            "`innkeeper doctor`."
        )
    kind, task, result = progress.trouble
    reason = catalogue.hidden(_reason(result), secrets)
    if kind == "unreachable":
        said = str(result.get("msg"))
        if any(sign in said for sign in _WRONG_KEY):
            return HostKeyDiffers(
                f"What answers for {server} at {target.host}:{target.port} does not have that "
                "server's host key: find out who has its address before you rebuild it."
            )
        return GuestUnreachable(f"The server {server} does not answer over SSH: {reason}.")
    return ConfigurationFailed(
        f"Task '{task}' failed on {server}: {reason}. Correct that, then configure the server "
        "again."
    )


def _reason(result: Mapping[str, Any]) -> str:
    """Return why a task failed; what a role hides (no_log) stays hidden."""
    if "censored" in result:
        return "its details are hidden because they may be secret"
    parts = [result.get("msg"), result.get("stderr") or result.get("module_stderr")]
    text = " ".join(str(part).strip() for part in parts if part)
    return _short(text or "it gave no reason")


def _short(text: str) -> str:
    plain = " ".join(_COLOUR.sub("", text).split()).rstrip(".")
    return plain if len(plain) <= TEXT_LIMIT else plain[: TEXT_LIMIT - 1] + "…"
