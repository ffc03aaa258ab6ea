"""Terraform's words, states and variables, without Terraform."""

import json
import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from innkeeper.errors import HostUnreachable, PermanentError, TransientError
from innkeeper.hypervisor.connection import connect
from innkeeper.settings import Settings, settings
from innkeeper.substrate import (
    HostSubstrate,
    NetworkSubstrate,
    ensure,
    ensure_host,
    ensure_network,
    fingerprint,
    is_present,
    roots,
)
from innkeeper.substrate.backend import LocalBackend, connection_string
from innkeeper.substrate.command import Command, child_environment
from innkeeper.substrate.failure import (
    StateUnreachable,
    SubstrateBusy,
    TerraformFailed,
    TerraformInterrupted,
    failure,
    first_error,
    redact,
)
from innkeeper.substrate.terraform import Terraform, _told, addresses

HOST = HostSubstrate(
    UUID("11111111-0000-4000-8000-000000000000"),
    "qemu:///system",
    "/var/lib/innkeeper",
    {"image-b.qcow2": Path("/store/b.qcow2"), "image-a.qcow2": "/store/a.qcow2"},
)
NETWORK = NetworkSubstrate(
    HOST.host_id,
    UUID("22222222-0000-4000-8000-000000000000"),
    HOST.uri,
    "innkeeper-22222222",
    "ik-12345678",
    "10.64.7.0/24",
)

BOXED = """
\x1b[31m╷\x1b[0m
│ \x1b[1mError: \x1b[0mstorage pool 'innkeeper' already exists
│
│   with module.pool.libvirt_pool.this,
│   on ../../modules/pool/main.tf line 1, in resource "libvirt_pool" "this":
│    1: resource "libvirt_pool" "this" {
│
╵
╷
│ Error: another one
╵
"""
PLAIN = """
Error: Invalid value for variable

  on main.tf line 8, in module "network":
   8:   bridge = var.bridge
    ├────────────────
    │ var.bridge is "too-long"

Linux allows 1 to 15 characters in the name of a bridge.
"""


def test_names_and_variables_are_derived() -> None:
    assert HOST.workspace == "host-11111111"
    assert NETWORK.workspace == "net-22222222-11111111"
    further = replace(NETWORK, name="innkeeper-22222222-10-64-9-0")
    assert further.workspace == "net-22222222-11111111-10-64-9-0"
    assert NETWORK.gateway_cidr == "10.64.7.1/24"
    assert HOST.variables["pool"] == {"name": "innkeeper", "path": "/var/lib/innkeeper"}
    assert list(HOST.variables["images"]) == ["image-a.qcow2", "image-b.qcow2"]
    assert json.loads(json.dumps(HOST.variables)) == HOST.variables


def test_the_fingerprint_follows_variables_and_modules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = fingerprint(HOST)
    assert fingerprint(replace(HOST, images=dict(reversed(HOST.images.items())))) == known
    assert fingerprint(replace(HOST, pool_path="/elsewhere")) != known
    assert fingerprint(NETWORK) != known
    copy = tmp_path / "terraform"
    for file in roots.SOURCE.rglob("*.tf"):
        (copy / file.relative_to(roots.SOURCE)).parent.mkdir(parents=True, exist_ok=True)
        (copy / file.relative_to(roots.SOURCE)).write_bytes(file.read_bytes())
    monkeypatch.setattr(roots, "SOURCE", copy)
    assert fingerprint(HOST) == known
    with (copy / "modules" / "pool" / "main.tf").open("a") as file:
        file.write("\n")
    assert fingerprint(HOST) != known


def test_the_first_error_is_told_without_its_position() -> None:
    assert first_error(BOXED) == "storage pool 'innkeeper' already exists"
    told = first_error(PLAIN)
    assert told.startswith("Invalid value for variable")
    assert "Linux allows 1 to 15 characters" in told
    assert "main.tf" not in told
    assert first_error("") == "it said nothing"
    assert first_error("panic: oh no\n\n") == "panic: oh no"
    assert len(first_error("Error: " + "x" * 5000)) == 500


@pytest.mark.parametrize(
    "text",
    [
        "postgres://ik:hunter2@127.0.0.1/db",
        "postgresql+psycopg://ik:hunter2@host:5432/db?x=y",
        "host=h password=hunter2 user=ik",
        "host=h password='hunter2' user=ik",
    ],
)
def test_connection_strings_are_blotted_out(text: str) -> None:
    assert "hunter2" not in redact(f"Error: cannot use {text} now")
    assert redact(f"Error: cannot use {text} now").endswith("now")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error acquiring the state lock", SubstrateBusy),
        (
            "failed to dial libvirt: dial unix /run/libvirt/libvirt-sock: no such file",
            HostUnreachable,
        ),
        ("pq: the database system is starting up", StateUnreachable),
        ('pq: duplicate key value violates "pg_namespace"', TerraformInterrupted),
        ("dial tcp 127.0.0.1:5432: connect: connection refused", TerraformInterrupted),
        ("Saved plan is stale", TerraformInterrupted),
        ("Invalid value for variable", TerraformFailed),
    ],
)
def test_errors_say_whether_a_retry_is_worth_it(said: str, kind: type[Exception]) -> None:
    error = failure("apply", "host-1", f"Error: {said}\n")
    assert type(error) is kind
    assert said in str(error)
    assert "host-1" in str(error)
    assert isinstance(error, PermanentError) == (kind is TerraformFailed)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "postgresql+psycopg://ik:p@127.0.0.1:5499/ik",
            "postgres://ik:p@127.0.0.1:5499/ik?sslmode=disable",
        ),
        ("postgresql://ik@db.example/ik", "postgres://ik@db.example/ik?sslmode=require"),
        (
            "postgresql://ik:p%40s@db/ik?sslmode=verify-full&connect_timeout=3",
            "postgres://ik:p%40s@db/ik?sslmode=verify-full&connect_timeout=3",
        ),
        ("postgresql:///ik?host=/run/pg", "postgres:///ik?host=%2Frun%2Fpg&sslmode=disable"),
    ],
)
def test_connection_strings_fit_terraforms_driver(given: str, expected: str) -> None:
    assert connection_string(given) == expected


def test_a_provider_sees_none_of_our_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("DATABASE_URL", "INNKEEPER_SECRET_KEY", "PGPASSWORD", "TF_LOG", "TF_VAR_uri"):
        monkeypatch.setenv(name, "canary")
    config = tmp_path / "terraformrc"
    environment = child_environment(config, {"TF_WORKSPACE": "host-1"})
    assert "canary" not in environment.values()
    assert "TF_CLI_CONFIG_FILE" not in environment  # a file that is not there breaks Terraform
    config.touch()
    assert child_environment(config, {})["TF_CLI_CONFIG_FILE"] == str(config)
    assert environment["PATH"] == os.environ["PATH"]


def test_a_plan_is_shown_without_progress_and_advice() -> None:
    out = (
        "module.pool.libvirt_pool.this: Refreshing state... [id=1]\n\n"
        "Terraform will perform the following actions:\n\nPlan: 1 to add.\n\n"
        "─────────────────────────────\n\nSaved the plan to: /x/plan\n"
    )
    assert _told(out) == "Terraform will perform the following actions:\n\nPlan: 1 to add."


STATE: dict[str, Any] = {
    "outputs": {"pool": {"value": "innkeeper", "type": "string"}},
    "resources": [
        {
            "module": 'module.image["a.qcow2"]',
            "mode": "managed",
            "type": "libvirt_volume",
            "name": "this",
            "instances": [{"attributes": {"name": "a.qcow2", "source": "/a", "format": "qcow2"}}],
        },
        {"mode": "data", "type": "x", "name": "y", "instances": [{}]},
        {"mode": "managed", "type": "libvirt_pool", "name": "gone", "instances": []},
    ],
}


def test_states_are_read_without_terraform(home: Path) -> None:
    backend = LocalBackend(home / "terraform")
    folder = backend.states_folder / HOST.workspace
    folder.mkdir()
    (folder / "terraform.tfstate").write_text(json.dumps(STATE))
    terraform = Terraform()
    assert terraform.workspaces() == [HOST.workspace]
    assert terraform.resources(HOST.workspace) == ['module.image["a.qcow2"].libvirt_volume.this']
    assert terraform.outputs(HOST.workspace) == {"pool": "innkeeper"}
    with pytest.raises(PermanentError, match="destroy them before"):
        terraform.drop(HOST.workspace)
    (folder / "terraform.tfstate").write_text("{}")
    terraform.drop(HOST.workspace)
    terraform.drop(HOST.workspace)
    assert terraform.workspaces() == []


def test_states_and_runs_are_ours_alone(home: Path) -> None:
    backend = LocalBackend(home / "terraform")
    for folder in (backend.states_folder, backend.locks_folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_lock_is_waited_for_only_so_long(home: Path) -> None:
    backend = LocalBackend(home / "terraform")
    with (
        backend.exclusive("host-1", 1),
        pytest.raises(SubstrateBusy, match="host-1"),
        backend.exclusive("host-1", 0.05),
    ):
        pass
    with backend.exclusive("host-1", 0.05):
        pass


def test_images_that_the_host_has_are_kept() -> None:
    spec = replace(HOST, images={})
    kept = ensure._with_kept_images(spec, frozenset(), STATE)
    assert kept["images"] == {"a.qcow2": {"source": "/a", "format": "qcow2"}}
    assert ensure._with_kept_images(spec, frozenset({"a.qcow2"}), STATE)["images"] == {}
    assert addresses({}) == []


def fake(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def command(binary: str, folder: Path, seconds: float, **environment: str) -> Command:
    deadline = time.monotonic() + seconds
    return Command(binary, folder, folder, {"PATH": os.environ["PATH"], **environment}, deadline)


def test_a_run_gets_its_own_environment_and_no_input(tmp_path: Path) -> None:
    binary = fake(tmp_path / "tf", 'echo "$1 $WORD"; read line || echo no input; exit 2')
    result = command(binary, tmp_path, 10, WORD="set").cmd("plan")
    assert (result.code, result.out) == (2, "plan set\nno input\n")


def test_terraform_is_asked_to_stop_at_the_deadline(tmp_path: Path) -> None:
    saving = "import signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(open('saved', "
    saving += "'w').write('saved\\n') and 1)); signal.pause()"
    # No shell: one that was started with the signal ignored cannot trap it.
    binary = fake(tmp_path / "tf", f'exec {sys.executable} -c "{saving}"')
    with pytest.raises(TerraformInterrupted, match="did not end in its time"):
        command(binary, tmp_path, 2.0).cmd("apply")
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_terraform_is_stopped_when_its_host_is_gone(tmp_path: Path) -> None:
    binary = fake(tmp_path / "tf", 'trap "exit 1" INT; while :; do sleep 0.05; done')
    answers = iter([True, False])
    begun = time.monotonic()
    run = Command(
        binary, tmp_path, tmp_path, {"PATH": os.environ["PATH"]}, begun + 60, answers.__next__
    )
    with pytest.raises(TerraformInterrupted, match="lost its host"):
        run.cmd("apply")
    assert next(answers, None) is None, "it looked twice"


def test_terraform_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innkeeper.substrate.command.GRACE_SECONDS", 0.2)
    binary = fake(tmp_path / "tf", 'trap "" INT; echo $$ >pid; while :; do sleep 0.05; done')
    with pytest.raises(TerraformInterrupted):
        command(binary, tmp_path, 0.3).cmd("apply")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_missing_terraform_is_told(tmp_path: Path) -> None:
    with pytest.raises(TerraformFailed, match="run `make setup`"):
        command(str(tmp_path / "none"), tmp_path, 1).cmd("plan")


def test_a_root_is_initialised_once_and_only_as_a_whole(tmp_path: Path) -> None:
    made: list[Path] = []

    def get(init: Any, tools: str = "1") -> Path:
        return roots.initialised("host", tmp_path / "roots", {}, tools=tools, init=init, seconds=1)

    def fails(_: Path) -> None:
        raise TransientError("no network")

    with pytest.raises(TransientError):
        get(fails)
    assert not [p for p in (tmp_path / "roots").iterdir() if not p.name.endswith(".lock")]
    working = get(made.append)
    assert get(fails) == working
    assert json.loads((working / "backend.tf.json").read_text()) == {}
    assert (working / "../../modules/pool/main.tf").exists()
    assert get(made.append, tools="2") != working
    assert len(made) == 2


@pytest.fixture
def simulated(tmp_path: Path) -> tuple[HostSubstrate, NetworkSubstrate]:
    header = b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(16) + (1 << 30).to_bytes(8, "big")
    image = tmp_path / "image.qcow2"
    image.write_bytes(header.ljust(65536, b"\0"))
    node = tmp_path / "node.xml"  # nobody else's: all of a process share test:///default
    node.write_text("<node/>")
    host = replace(HOST, uri=f"test://{node}", pool_path="/sim", images={"i.qcow2": image})
    return host, replace(NETWORK, uri=host.uri)


def test_simulated_hosts_need_no_terraform(
    simulated: tuple[HostSubstrate, NetworkSubstrate], home: Path
) -> None:
    host, network = simulated
    keep = connect(host.uri)  # the test driver forgets everything when the last one closes
    assert not is_present(host)
    assert ensure_host(host).changed
    assert ensure_network(network).changed
    assert not ensure_host(host).changed
    assert not ensure_network(network).changed
    assert is_present(host)
    assert is_present(network)
    assert not (settings().home / "terraform").exists()
    missing: Mapping[str, str] = {"other.qcow2": "/nowhere"}
    with pytest.raises(PermanentError, match="import the image again"):
        ensure_host(replace(host, images=missing))
    keep.storagePoolLookupByName(host.pool).destroy()
    assert not is_present(host)
    keep.storagePoolLookupByName(host.pool).undefine()
    keep.networkLookupByName(network.name).destroy()
    keep.networkLookupByName(network.name).undefine()


def test_a_new_workspace_waits_for_those_that_only_pass(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        'case $1 in plan) echo x >>"$COUNT"; [ $(wc -l <"$COUNT") -gt 2 ] && exit 0; '
        'echo "Error: Already locked for workspace creation: x" >&2; exit 1;; esac'
    )
    monkeypatch.setattr(Settings, "terraform_binary", fake(tmp_path / "tf", script))
    counted = {"COUNT": str(tmp_path / "count")}
    monkeypatch.setattr(LocalBackend, "environment", lambda _: counted)
    plan = Terraform().plan("network", NETWORK.workspace, NETWORK.variables, deadline_seconds=20)
    assert not plan.changed
    assert (tmp_path / "count").read_text().count("x") == 3
