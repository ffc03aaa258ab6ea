"""What the stack decides before anything runs: whose database, which place, which words."""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.settings import Settings, settings
from innkeeper.stack import config, golang, programs, supervisor, terraform
from innkeeper.stack.progress import printed, step


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name in [n for n in os.environ if n.startswith("INNKEEPER_")]:
        monkeypatch.delenv(name)
    for name in ("DATABASE_URL", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INNKEEPER_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield Settings()
    settings.cache_clear()


def test_the_first_up_makes_a_cluster_of_its_own(chosen: Settings) -> None:
    assert config.owns_database(chosen)
    made = config.ensure_stack(chosen)
    assert Settings().database_url == made.database_url
    assert made.database_url.endswith(f"@127.0.0.1:{chosen.postgres_port}/innkeeper")
    assert config.owns_database(Settings())
    assert config.owns_database(chosen), "settings that are older than the stack's file"
    assert config.ensure_stack(Settings()) == made


def test_passwords_stay_when_ports_change(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = config.ensure_stack(chosen)
    monkeypatch.setenv("INNKEEPER_POSTGRES_PORT", "6000")
    after = config.ensure_stack(Settings())
    assert after.innkeeper_password == before.innkeeper_password
    assert after.database_url == before.database_url.replace(f":{before.postgres_port}/", ":6000/")
    monkeypatch.delenv("INNKEEPER_POSTGRES_PORT")
    assert Settings().postgres_port == 6000


def test_a_trial_on_sqlite_stays_on_sqlite(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{chosen.home / 'innkeeper.db'}"
    monkeypatch.setenv("DATABASE_URL", url)
    trial = Settings()
    assert not config.owns_database(trial)
    table = programs.programs(trial, config.ensure_stack(trial), own_database=False)
    assert "postgres" not in {program.name for program in table}
    worker = next(program for program in table if program.name == "worker")
    assert worker.environment["INNKEEPER_WORKER_LIMIT"] == "4"
    monkeypatch.delenv("DATABASE_URL")
    assert not config.owns_database(Settings())
    assert config.ensure_stack(Settings()).database_url == url


def test_a_prefect_elsewhere_is_not_run_here(
    chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    elsewhere = Settings()
    table = programs.programs(elsewhere, config.ensure_stack(elsewhere), own_database=True)
    assert [program.name for program in table] == ["postgres", "worker", "api", "listener"]


def test_files_with_passwords_are_private_from_the_start(chosen: Settings) -> None:
    config.ensure_stack(chosen)
    assert stat.S_IMODE((chosen.home / "stack.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(chosen.home.stat().st_mode) == 0o711


def test_a_damaged_record_counts_as_none(chosen: Settings) -> None:
    config.ensure_stack(chosen)
    (chosen.home / "stack.json").write_text('{"database_url": "x"')
    assert config.read_stack(chosen.home) is None


def test_no_program_gets_a_password_on_its_command_line(chosen: Settings) -> None:
    made = config.ensure_stack(chosen)
    table = programs.programs(Settings(), made, own_database=True)
    words = " ".join(word for program in table for word in program.argv)
    for password in (made.postgres_password, made.innkeeper_password, made.prefect_password):
        assert password not in words


def test_a_deep_home_gets_a_short_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("d" * 90)
    path = config.socket_path(deep)
    assert len(str(path)) < len(str(deep))
    assert not path.parent.exists(), "looking leaves nothing behind"
    assert config.socket_path(Path("/srv/home")) == Path("/srv/home/run/supervisor.sock")


def test_homes_are_told_apart(tmp_path: Path) -> None:
    assert config.mark(tmp_path / "a") != config.mark(tmp_path / "b")
    assert config.mark(tmp_path / "a") == config.mark(tmp_path / "x" / ".." / "a")


@pytest.mark.parametrize("value", ["plain", "two words", 'a"b', "a'b", r"a\b", "100%", "%(x)s"])
def test_words_reach_a_program_as_they_are(value: str) -> None:
    quoted = supervisor._quoted(value)
    # Supervisord expands %-names first and splits like a shell then.
    assert shlex.split(quoted % {"x": "expanded"}) == [value]


def test_progress_keeps_only_the_ends_when_it_is_not_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with step(printed(), "name", "doing it") as now:
        now.text = "did it"
    assert capsys.readouterr().out == "  name       did it (0.0 s)\n"


def test_terraform_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(_module: Path, package: str, target: Path) -> None:
        built.append(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("binary")

    monkeypatch.setattr(golang, "build", build)
    monkeypatch.setattr(terraform, "version_of", lambda _binary: terraform.OLDEST)
    monkeypatch.setattr(terraform.shutil, "which", lambda _name: None)

    first = terraform.prepare(tmp_path)
    assert terraform.prepare(tmp_path) == first
    assert built == [
        "github.com/opentofu/opentofu/cmd/tofu",
        "github.com/dmacvicar/terraform-provider-libvirt",
    ]
    assert first.binary.resolve().name == "tofu"
    for registry in terraform.REGISTRIES:
        assert registry in first.cli_config.read_text()
        assert terraform._provider_file(tmp_path / "terraform", registry).exists()
    terraform._provider_file(tmp_path / "terraform").unlink()
    assert terraform.prepared(tmp_path) is None


def test_without_any_way_to_terraform_the_next_step_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_go(*_: object) -> None:
        raise golang.GoUnavailable("Go >= 1.23 is not installed")

    def no_net(_target: Path) -> None:
        raise OSError("no network")

    monkeypatch.setattr(terraform.shutil, "which", lambda _name: None)
    monkeypatch.setattr(golang, "build", no_go)
    monkeypatch.setattr(terraform, "_download", no_net)
    with pytest.raises(terraform.TerraformUnavailable, match=r"Go >= 1.23.*no network.*Install"):
        terraform.prepare(tmp_path)
