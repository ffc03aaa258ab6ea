"""What belongs between the programs: our schema after PostgreSQL, our flows after Prefect.

Both run as their own process: `up` itself then needs neither SQLAlchemy's nor Prefect's import.
"""

import hashlib
import json
import os
import subprocess
import sys

import httpx

from innkeeper.settings import Settings
from innkeeper.stack.config import write_private
from innkeeper.stack.errors import CommandFailed
from innkeeper.stack.programs import CHECKOUT, prefect_client_environment

MIGRATE = [sys.executable, "-m", "innkeeper.services.bootstrap"]
DEPLOY = [sys.executable, "-m", "deployments.deploy"]
DEPLOYED_FROM = (  # what a deployment is made of: its description, and the types of its form
    "deployments/*.yaml",
    "deployments/*.py",
    "flows/*.py",
    "innkeeper/contracts.py",
    "innkeeper/domain/*.py",
    "innkeeper/worker/*.py",
)
COMMAND_SECONDS = 180.0


def migrate(chosen: Settings) -> str:
    """Bring Innkeeper's schema to the newest revision; return what to say about it.

    Raises CommandFailed.
    """
    told = _run(MIGRATE, chosen)
    return told.splitlines()[-1] if told else "database schema is current"


def deploy(chosen: Settings) -> str:
    """Deploy every flow, unless the same sources are deployed there already.

    Raises CommandFailed.
    """
    note = chosen.home / "deployed.json"
    wanted = {"sources": _sources_mark(), "prefect": chosen.prefect_api_url}
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        known = None
    if known == wanted and _deployment_count(chosen):
        return "flows are deployed"
    _run(DEPLOY, chosen)
    write_private(note, json.dumps(wanted))
    return f"{_deployment_count(chosen)} flows deployed"


def _run(argv: list[str], chosen: Settings) -> str:
    environment = {
        **os.environ,
        **prefect_client_environment(chosen),
        "INNKEEPER_HOME": str(chosen.home),
        "DATABASE_URL": chosen.database_url,
        "PYTHONPATH": str(CHECKOUT),
    }
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as late:
        raise CommandFailed(f"{argv[-1]} did not end within {COMMAND_SECONDS:.0f} s") from late
    if done.returncode:
        raise CommandFailed(
            f"`{' '.join(argv[1:])}` failed: {(done.stderr or done.stdout).strip()[-1500:]}"
        )
    return done.stdout.strip()


def _sources_mark() -> str:
    digest = hashlib.sha256()
    for pattern in DEPLOYED_FROM:
        for file in sorted(CHECKOUT.glob(pattern)):
            digest.update(f"{file.relative_to(CHECKOUT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _deployment_count(chosen: Settings) -> int:
    try:
        answer = httpx.post(f"{chosen.prefect_api_url}/deployments/count", json={}, timeout=10.0)
        return int(answer.raise_for_status().json())
    except (httpx.HTTPError, ValueError):
        return 0
