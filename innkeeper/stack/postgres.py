"""A PostgreSQL cluster of our own: found binaries, initdb, roles and databases."""

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import psycopg
from psycopg import sql

from innkeeper.stack.config import POSTGRES_USER, StackConfig
from innkeeper.stack.errors import CommandFailed, PostgresMissing

INSTALLATIONS = Path("/usr/lib/postgresql")  # Debian: one folder a major version
INITDB_SECONDS = 120.0

# Small, because one machine holds the whole stack; durable, because it is the source of truth.
TUNING = {
    "shared_buffers": "64MB",
    "max_connections": "150",
    "jit": "off",
    "fsync": "on",
    "max_wal_size": "256MB",
    "max_parallel_workers": "2",
    "max_logical_replication_workers": "0",
    "wal_writer_delay": "1s",  # only Prefect commits asynchronously, so it may sleep
    "bgwriter_delay": "2s",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "timezone": "UTC",
}


def run_as() -> str | None:
    """Return the user that the server runs as, or None for the caller (PostgreSQL refuses root)."""
    return POSTGRES_USER if os.geteuid() == 0 else None


def binaries(data: Path | None = None) -> Path:
    """Return the folder of the server binaries: those of the cluster's version, else the newest.

    Raises PostgresMissing.
    """
    found = {
        folder.parent.name: folder
        for folder in INSTALLATIONS.glob("*/bin")
        if (folder / "postgres").exists() and (folder / "initdb").exists()
    }
    if on_path := shutil.which("postgres"):
        beside = Path(on_path).resolve().parent
        if (beside / "initdb").exists():
            found.setdefault(_version_of(beside), beside)
    if data and (data / "PG_VERSION").exists():
        version = (data / "PG_VERSION").read_text().strip()
        if version not in found:
            raise PostgresMissing(
                f"The cluster in {data} was made by PostgreSQL {version}, which is not installed "
                f"(found: {', '.join(sorted(found)) or 'none'}); install postgresql-{version}."
            )
        return found[version]
    if not found:
        raise PostgresMissing(
            "No PostgreSQL server is installed; run setup/packages.sh or install postgresql."
        )
    return found[max(found, key=float)]


def _version_of(folder: Path) -> str:
    told = subprocess.run(
        [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"(\d+)", told)
    return match[1] if match else "0"


def command(config: StackConfig) -> list[str]:
    """Return the argv of the server; it listens on loopback TCP only, there is no socket file."""
    data = Path(config.postgres_data)
    options = {
        "listen_addresses": config.bind,
        "port": str(config.postgres_port),
        "unix_socket_directories": "",
        "huge_pages": "off",  # it would take those that the host sets aside for guests
        **TUNING,
    }
    argv = [str(binaries(data) / "postgres"), "-D", str(data)]
    for name, value in options.items():
        argv += ["-c", f"{name}={value}"]
    return argv


def ensure_cluster(config: StackConfig) -> bool:
    """Make the cluster unless it exists; return whether it was made now.

    A cluster without the passwords that belong to it is put aside, never deleted.
    """
    data = Path(config.postgres_data)
    if (data / "PG_VERSION").exists():
        if _passwords_belong(config):
            _clear_stale_lock(data)
            return False
        data.rename(data.with_name(f"{data.name}.aside-{int(time.time())}"))
    _initialise(config, data)
    return True


def _passwords_belong(config: StackConfig) -> bool:
    known = Path(config.postgres_data) / "innkeeper-role"
    try:
        return known.read_text() == _password_mark(config)
    except OSError:
        return False


def _password_mark(config: StackConfig) -> str:
    """Return a digest that says which stack.json belongs to a cluster, and nothing else."""
    return hashlib.sha256(config.postgres_password.encode()).hexdigest()


def _initialise(config: StackConfig, data: Path) -> None:
    user = run_as()
    data.parent.mkdir(parents=True, exist_ok=True)
    account = pwd.getpwnam(user) if user else None
    with TemporaryDirectory(dir=data.parent) as scratch:
        place = Path(scratch)
        password = place / "password"
        password.touch(0o600)
        password.write_text(config.postgres_password)
        if account:
            for path in (place, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        fresh = place / "cluster"
        argv = [str(binaries() / "initdb"), "-D", str(fresh), "-U", POSTGRES_USER]
        argv += ["--auth=scram-sha-256", f"--pwfile={password}"]
        argv += ["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_SECONDS,
            cwd="/",
            **_identity(account),
        )
        if done.returncode:
            raise CommandFailed(
                f"initdb could not make a cluster in {data}: {done.stderr.strip()[-400:]}"
            )
        note = fresh / "innkeeper-role"
        note.write_text(_password_mark(config))
        if account:
            os.chown(note, account.pw_uid, account.pw_gid)
        # Renamed when complete, so that a killed initdb leaves no half of a cluster behind.
        fresh.rename(data)


def _identity(account: pwd.struct_passwd | None) -> dict[str, Any]:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def postmaster_pid(data: Path) -> int | None:
    """Return the process id of the server that runs on `data`, or None when none does."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or "postgres" not in process.name():
            return None
        return pid if str(data) in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


def _clear_stale_lock(data: Path) -> None:
    """Remove the lock file of a server that is gone, whose number another process may have now."""
    if postmaster_pid(data) is None:
        (data / "postmaster.pid").unlink(missing_ok=True)


def answers(config: StackConfig) -> bool:
    """Tell whether the server accepts the superuser."""
    try:
        with psycopg.connect(config.superuser_conninfo, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def ensure_databases(config: StackConfig) -> None:
    """Make the two roles and their databases unless they exist."""
    wanted = {"innkeeper": config.innkeeper_password, "prefect": config.prefect_password}
    with psycopg.connect(config.superuser_conninfo, autocommit=True) as connection:
        roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
        databases = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name, password in wanted.items():
            if name not in roles:
                # Encrypted here, so that the password itself is in no statement and no log.
                verifier = connection.pgconn.encrypt_password(
                    password.encode(), name.encode(), b"scram-sha-256"
                ).decode()
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(name), sql.Literal(verifier)
                    )
                )
            if name not in databases:
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER {}").format(
                        sql.Identifier(name), sql.Identifier(name)
                    )
                )
        # Its every request would wait for the disk. What a crash of the database forgets of the
        # last seconds, reconcile does again: the truth is in our own, which forgets nothing.
        connection.execute("ALTER ROLE prefect SET synchronous_commit = off")
