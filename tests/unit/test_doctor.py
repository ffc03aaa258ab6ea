"""Every check says what is wrong and what to do; none raises."""

import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from innkeeper import doctor
from innkeeper.cli.doctor import command
from innkeeper.doctor import Check, Result
from innkeeper.errors import HostUnreachable
from innkeeper.settings import Settings, settings


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in ("DATABASE_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    ports = iter(free_ports(3))
    monkeypatch.setenv("INNKEEPER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INNKEEPER_CACHE", str(tmp_path / "cache"))
    for name in ("POSTGRES", "PREFECT", "API"):
        monkeypatch.setenv(f"INNKEEPER_{name}_PORT", str(next(ports)))
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_a_missing_program_is_named_by_its_package() -> None:
    found = doctor.programs({"no-such-program-here": "the-package", "sh": "dash"})
    assert found.result is Result.FAIL
    assert "the-package" in found.what
    assert found.fix == "apt-get install the-package"


def test_present_programs_are_fine() -> None:
    assert doctor.programs({"sh": "dash"}).result is Result.OK


def test_missing_image_programs_only_warn() -> None:
    found = doctor.image_programs({"no-such-program-here": "the-package"})
    assert found.result is Result.WARN
    assert "import" in found.fix


def test_programs_of_root_are_found_without_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert doctor.which("ldconfig")


def test_old_python_fails() -> None:
    assert doctor.python((3, 10, 4)).result is Result.FAIL
    assert doctor.python((3, 11, 0)).result is Result.OK


@pytest.mark.parametrize(
    ("accelerator", "there", "result"),
    [
        ("auto", True, Result.OK),
        ("auto", False, Result.WARN),
        ("kvm", True, Result.OK),
        ("kvm", False, Result.FAIL),
        ("qemu", False, Result.OK),
    ],
)
def test_kvm(accelerator: str, there: bool, result: Result, tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    if there:
        device.touch()
    assert doctor.kvm(accelerator, device).result is result


@pytest.mark.parametrize(
    ("mounts", "result", "word"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", Result.OK, "version 2"),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0", Result.OK, "version 1"),
        ("c /a cgroup rw 0 0\nd /b cgroup2 rw 0 0", Result.OK, "hybrid"),
        ("proc /proc proc rw 0 0", Result.FAIL, "no control groups"),
    ],
)
def test_cgroups(mounts: str, result: Result, word: str, tmp_path: Path) -> None:
    file = tmp_path / "mounts"
    file.write_text(mounts)
    found = doctor.cgroups(file)
    assert (found.result, word in found.what) == (result, True)


def test_forwarding(tmp_path: Path) -> None:
    assert doctor.forwarding(tmp_path).result is Result.FAIL
    (tmp_path / "ipv4").mkdir()
    switch = tmp_path / "ipv4/ip_forward"
    switch.write_text("1\n")
    assert "tracking" in doctor.forwarding(tmp_path).what
    (tmp_path / "netfilter").mkdir()
    assert doctor.forwarding(tmp_path).result is Result.OK
    switch.write_text("0\n")
    off = doctor.forwarding(tmp_path)
    assert off.result is Result.WARN
    assert "sysctl" in off.fix


def test_disk_looks_at_the_nearest_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frees = {1: Result.FAIL, 10: Result.WARN, 50: Result.OK}
    seen = []

    def usage(path: Path) -> object:
        free = list(frees)[len(seen)] * doctor.GIB
        seen.append(path)
        return type("Usage", (), {"free": free})

    monkeypatch.setattr(doctor.shutil, "disk_usage", usage)
    for result in frees.values():
        assert doctor.disk("disk", tmp_path / "not" / "there").result is result
    assert seen == [tmp_path] * 3


def test_little_memory_warns(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 9 kB\nMemAvailable: 524288 kB\n")
    assert doctor.memory(file).result is Result.WARN
    file.write_text("MemAvailable: 8388608 kB\n")
    assert doctor.memory(file).result is Result.OK


def test_an_open_secret_is_named_with_its_cure(tmp_path: Path) -> None:
    key = tmp_path / "secret.key"
    key.write_text("x")
    key.chmod(0o644)
    found = doctor.secrets(tmp_path)
    assert found.result is Result.FAIL
    assert found.fix == f"chmod 600 {key}"
    key.chmod(0o600)
    assert doctor.secrets(tmp_path).result is Result.OK


def test_a_taken_port_names_who_holds_it(chosen: Settings) -> None:
    assert doctor.ports(chosen).result is Result.OK
    with socket.create_server(("127.0.0.1", chosen.api_port)):
        found = doctor.ports(chosen)
    assert found.result is Result.FAIL
    assert str(chosen.api_port) in found.what
    assert str(os.getpid()) in found.what
    assert "INNKEEPER_API_PORT" in found.fix


def test_terraform_that_was_never_prepared(tmp_path: Path) -> None:
    assert doctor.substrate_tools(tmp_path).fix == "make terraform"


def test_the_password_of_the_database_is_not_told(chosen: Settings) -> None:
    url = f"postgresql+psycopg://someone:canary-password@127.0.0.1:{chosen.postgres_port}/x"
    found = doctor.database(chosen.model_copy(update={"database_url": url}))
    assert found.result is Result.WARN
    assert "127.0.0.1" in found.what
    assert "canary-password" not in str(found)


def test_sqlite_database(chosen: Settings) -> None:
    assert doctor.database(chosen).result is Result.WARN
    chosen.home.mkdir()
    connection = sqlite3.connect(chosen.home / "innkeeper.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert doctor.database(chosen).result is Result.OK


def test_an_external_database_needs_no_postgres_here(chosen: Settings) -> None:
    elsewhere = chosen.model_copy(update={"database_url": "postgresql+psycopg://db.example/i"})
    assert "not needed" in doctor.postgres_binaries(elsewhere).what


def test_a_service_that_does_not_answer(chosen: Settings) -> None:
    found = doctor.service("api", f"http://127.0.0.1:{chosen.api_port}/api/v1/health")
    assert (found.result, found.fix) == (Result.WARN, "make up")


def test_hosts() -> None:
    def refuse(_uri: str) -> object:
        raise HostUnreachable("nobody listens")

    assert doctor.host("test:///default", lambda uri: uri).result is Result.OK
    refused = doctor.host("qemu+ssh://far/system", refuse)
    assert refused.result is Result.FAIL
    assert "nobody listens" in refused.what


def test_every_complaint_comes_with_a_next_step(chosen: Settings) -> None:
    found = doctor.examine(chosen, ["test:///default"], lambda uri: uri)
    assert len({check.name for check in found}) == len(found)
    assert [check for check in found if check.result is not Result.OK and not check.fix] == []


def test_command_exits_with_one_when_something_fails(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command()(command)
    good = Check("a", Result.OK, "fine")
    monkeypatch.setattr(doctor, "examine", lambda *_a, **_k: [good])
    passed = CliRunner().invoke(app, ["-o", "json"])
    assert passed.exit_code == 0
    assert json.loads(passed.stdout) == [{"name": "a", "result": "ok", "what": "fine", "fix": ""}]
    bad = Check("b", Result.FAIL, "broken [thing]", "mend it")
    monkeypatch.setattr(doctor, "examine", lambda *_a, **_k: [good, bad])
    failed = CliRunner().invoke(app, [])
    assert failed.exit_code == 1
    assert "broken [thing]" in failed.stdout
    assert "mend it" in failed.stdout
