"""The command line starts fast: it loads what a command needs, and never the engine room."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from innkeeper.cli import lazy
from innkeeper.cli.main import COMMANDS

ENGINE_ROOM = {"sqlalchemy", "prefect", "libvirt", "ansible", "fastapi", "alembic", "psycopg"}
SLOW = ENGINE_ROOM | {"httpx", "pydantic", "tenacity", "cryptography", "yaml"}
PROBE = """
import sys
from innkeeper.cli.main import main
sys.argv = ["innkeeper", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    print("modules", *sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
    raise
"""
ROOT = Path(__file__).parents[2]


def modules_after(tmp_path: Path, *words: str, code: int = 0) -> set[str]:
    """Run a command in a process of its own; return the top-level modules it imported."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "INNKEEPER_HOME": str(tmp_path),
        "INNKEEPER_API_URL": "http://127.0.0.1:9",  # nothing answers at the discard port
    }
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_imports_nothing_slow(tmp_path: Path, words: list[str]) -> None:
    assert modules_after(tmp_path, *words) & SLOW == set()


@pytest.mark.parametrize(
    "words", [["server", "list"], ["host", "list"], ["image", "list"], ["event", "list"]]
)
def test_commands_leave_the_engine_room_alone(tmp_path: Path, words: list[str]) -> None:
    modules = modules_after(tmp_path, *words, code=5)
    assert "httpx" in modules
    assert modules & ENGINE_ROOM == set()


def test_help_takes_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        modules_after(tmp_path, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5  # processor time: others use the machine, too


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo", "stack", "lab", "doctor"}))
def test_every_command_is_where_the_table_says(name: str) -> None:
    command = lazy.load(name)
    assert command.name == name
    assert command.help
