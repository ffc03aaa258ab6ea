"""Roles and their options, and what an Ansible run is given and says, without Ansible."""

import fcntl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from innkeeper.configuration import ansible, catalogue, rundir
from innkeeper.configuration.ansible import Outcome, _failure, _Progress
from innkeeper.configuration.catalogue import RoleUnknown, RoleVariableInvalid
from innkeeper.configuration.failure import (
    ConfigurationFailed,
    ConfigurationTimedOut,
    GuestUnreachable,
    HostKeyDiffers,
)
from innkeeper.configuration.target import Target
from innkeeper.domain.specs import RoleRequest
from innkeeper.errors import OperationCancelled

TARGET = Target("10.0.0.5", 2203, "debian", "ssh-ed25519 AAAAkey comment", "web")


def test_every_role_describes_itself() -> None:
    names = [role.name for role in catalogue.roles()]
    assert names == sorted(names)
    assert {"nginx", "packages", "prometheus-node-exporter", "static-site", "users"} <= set(names)
    assert catalogue.BASE not in names
    folders = {path.name for path in (catalogue.ANSIBLE / "roles").iterdir()}
    assert folders == {*names, catalogue.BASE}
    for role in catalogue.roles():
        assert role.description
        assert all(option.description and option.type for option in role.options)


def test_a_role_may_be_requested_by_its_name() -> None:
    for role in catalogue.roles():
        assert RoleRequest(name=role.name).name == role.name


def test_variables_are_converted_and_completed() -> None:
    checked = catalogue.validate("static-site", {"page": "x", "listen_port": "80"})
    assert checked == {"page": "x", "listen_port": 80}
    accounts = catalogue.validate("users", {"accounts": [{"name": "a"}]})["accounts"]
    assert accounts == [{"name": "a", "keys": [], "shell": "/bin/sh", "sudo": False}]


@pytest.mark.parametrize(
    ("role", "variables", "named"),
    [
        ("users", {}, "accounts"),
        ("users", {"accounts": [{}]}, "name"),
        ("users", {"accounts": [{"name": "a", "home": "/"}]}, "home"),
        ("static-site", {"page": "x", "listen_port": "http"}, "listen_port"),
        ("static-site", {"page": "x", "ansible_connection": "local"}, "ansible_connection"),
        ("nginx", {"anything": 1}, "anything"),
    ],
)
def test_a_bad_variable_is_named(role: str, variables: dict[str, Any], named: str) -> None:
    with pytest.raises(RoleVariableInvalid, match=named) as refused:
        catalogue.validate(role, variables)
    assert role in str(refused.value)


@pytest.mark.parametrize("name", ["nope", "base", "../base", ""])
def test_only_roles_of_the_catalogue_are_applied(name: str) -> None:
    with pytest.raises(RoleUnknown, match="choose from nginx"):
        catalogue.validate(name, {})


def test_secret_options_are_known_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {
        "token": {"type": "int", "no_log": True},
        "users": {
            "type": "list",
            "elements": "dict",
            "options": {"name": {}, "password": {"no_log": True}},
        },
    }
    monkeypatch.setattr(catalogue, "_specs", lambda: {"vault": {"options": spec}})
    given = {"token": "hunter2", "users": [{"name": "ann", "password": "hunter3"}]}
    assert sorted(catalogue.secrets("vault", given)) == ["hunter2", "hunter3"]
    with pytest.raises(RoleVariableInvalid) as refused:
        catalogue.validate("vault", given)
    assert "hunter" not in str(refused.value)
    assert "token" in str(refused.value)


@pytest.fixture
def written(tmp_path: Path, home: Path) -> Path:
    page = {"page": "{{ lookup('pipe', 'id') }}", "listen_port": 80}
    ansible._write_files(tmp_path, TARGET, [("static-site", page)])
    return tmp_path


def test_the_host_key_is_pinned(written: Path, home: Path) -> None:
    assert (written / "known_hosts").read_text() == "[10.0.0.5]:2203 ssh-ed25519 AAAAkey\n"
    inventory = yaml.safe_load((written / "inventory.yml").read_text())
    host = inventory["all"]["children"]["guests"]["hosts"]["web"]
    assert f"UserKnownHostsFile={written}/known_hosts" in host["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in host["ansible_ssh_common_args"]
    assert host["ansible_ssh_private_key_file"] == str(home / "ssh" / "id_ed25519")


def test_the_default_port_is_pinned_without_brackets(tmp_path: Path, home: Path) -> None:
    ansible._write_files(tmp_path, Target("10.0.0.5", 22, "debian", "ssh-ed25519 K"), [])
    assert (tmp_path / "known_hosts").read_text() == "10.0.0.5 ssh-ed25519 K\n"


def test_values_of_users_are_never_templates(written: Path) -> None:
    text = (written / "project" / "play.yml").read_text()
    assert "page: !unsafe \"{{ lookup('pipe', 'id') }}\"" in text
    assert "listen_port: 80" in text


def test_files_of_a_run_are_ours_alone(written: Path) -> None:
    for path in written.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_ansible_sees_none_of_our_secrets(written: Path) -> None:
    prepared = {
        "DATABASE_URL": "canary",
        "INNKEEPER_SECRET_KEY": "canary",
        "HOME": "/root",
        "AWX_ISOLATED_DATA_DIR": "/x",
        "ANSIBLE_CALLBACK_PLUGINS": "/callbacks",
        "ANSIBLE_STDOUT_CALLBACK": "awx_display",
        "ANSIBLE_VAULT_PASSWORD_FILE": "canary",
    }
    environment = ansible._environment(written, prepared)
    assert "canary" not in environment.values()
    assert environment["AWX_ISOLATED_DATA_DIR"] == "/x"
    assert environment["ANSIBLE_CONFIG"] == str(catalogue.ANSIBLE / "ansible.cfg")
    assert environment["PATH"].startswith(str(Path(sys.executable).parent))


def event(kind: str, task: str = "T", **data: Any) -> dict[str, Any]:
    return {"event": f"runner_on_{kind}", "event_data": {"role": "r", "task": task, **data}}


def run(*events: dict[str, Any]) -> tuple[_Progress, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    progress = _Progress(lambda name, status: told.append((name, status)))
    for one in events:
        assert progress.take(one) is False  # nothing is kept on disk
    return progress, told


def test_tasks_are_counted_and_told() -> None:
    progress, told = run(
        event("ok", res={"changed": True}),
        event("ok", res={"changed": False}),
        event("ok"),
        event("skipped"),
        event("failed", ignore_errors=True),
        {"event": "playbook_on_stats", "event_data": {}},
    )
    assert progress.outcome() == Outcome(ok=3, changed=1, skipped=1)
    assert told[0] == ("r : T", "changed")
    assert progress.trouble is None


def test_a_failing_watcher_does_not_fail_the_run() -> None:
    def fail(_name: str, _status: str) -> None:
        raise RuntimeError

    progress = _Progress(fail)
    progress.take(event("ok"))
    assert progress.outcome().ok == 1


@pytest.mark.parametrize(
    ("status", "happened", "kind", "said"),
    [
        (
            "failed",
            [event("failed", "Install", res={"msg": "no\nspace"})],
            ConfigurationFailed,
            "no space",
        ),
        ("failed", [event("failed", res={"censored": "x"})], ConfigurationFailed, "hidden"),
        ("failed", [event("failed", res={})], ConfigurationFailed, "no reason"),
        ("failed", [event("unreachable", res={"msg": "timed out"})], GuestUnreachable, "timed out"),
        (
            "failed",
            [event("unreachable", res={"msg": "Host key verification failed."})],
            HostKeyDiffers,
            "host key",
        ),
        ("timeout", [], ConfigurationTimedOut, "in time"),
        ("canceled", [event("failed")], OperationCancelled, "cancelled"),
        (
            "failed",
            [{"event": "error", "stdout": "ERROR! bad play"}],
            ConfigurationFailed,
            "bad play",
        ),
    ],
)
def test_failures_are_told_apart(
    status: str, happened: list[dict[str, Any]], kind: type[Exception], said: str
) -> None:
    progress, _ = run(*happened)
    error = _failure(status, progress, TARGET, [])
    assert type(error) is kind
    assert said in str(error)
    assert "web" in str(error)
    assert "\n" not in str(error)


def test_secrets_are_blotted_out_of_errors() -> None:
    progress, _ = run(event("failed", res={"msg": "bad token hunter2"}))
    assert "hunter2" not in str(_failure("failed", progress, TARGET, ["hunter2"]))


def test_the_folder_of_a_run_is_private_and_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "place", lambda: tmp_path)
    with pytest.raises(ValueError, match="x"), rundir.run_folder() as folder:  # noqa: PT012
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        rundir.sweep()  # another run starts meanwhile
        assert folder.exists()
        raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_ended_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "place", lambda: tmp_path)
    left = tmp_path / "innkeeper-ansible-dead"
    left.mkdir()
    (left / "owner").touch()
    other = tmp_path / "innkeeper-ansible-live"
    other.mkdir()
    with (other / "owner").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(["sleep", "60", f"{left}/known_hosts"], stderr=-3) as sleeper:
            with subprocess.Popen([sys.executable, "-c", "input()", str(left)], stdin=-1) as orphan:
                rundir.sweep()
                assert orphan.wait(10) == -9
            sleeper.kill()
    assert not left.exists()
    assert other.exists()
