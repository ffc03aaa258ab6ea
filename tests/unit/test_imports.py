"""Every module may be the first that a program imports: none leans on the order of others."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EACH = """
import os, sys, traceback
import alembic, fastapi, httpx, libvirt, prefect, pydantic, sqlalchemy.orm, typer, yaml
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        try:
            __import__(name)
        except BaseException:
            traceback.print_exc(limit=-3)
            print(name, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_no_module_leans_on_what_was_imported_before_it() -> None:
    paths = [
        path.relative_to(ROOT).with_suffix("")
        for folder in ("innkeeper/services", "tasks")
        for path in (ROOT / folder).glob("[!_]*.py")
    ]
    names = [".".join(path.parts) for path in sorted(paths)]
    assert len(names) > 80
    done = subprocess.run(
        [sys.executable, "-c", EACH, *names],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "", done.stderr
