"""No secret anywhere: canaries are planted in a create, then everything it touched is searched.

Two servers carry them: one becomes active, of the other a role fails, because errors tell most.
"""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import psycopg
import pytest
from psycopg import sql

from e2e.estate import Estate, unique
from innkeeper.cli.client import Json
from innkeeper.db.models import Server
from innkeeper.db.session import transaction
from innkeeper.settings import settings
from innkeeper.stack.config import StackConfig, read_stack

SAMPLE_SECONDS = 0.02
CLOSE_LOOKS = 25
LARGEST = 64 << 20
"""Bytes of a file outside of the home that is searched; nothing of ours is larger there."""
OUTSIDE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"), Path("/var/log"))  # noqa: S108
PRIVATE = {"stack.json", "supervisord.conf", "admin.key", "secret.key", "ssh/id_ed25519"}
"""Files of the home whose purpose is to keep a secret."""


def forms(secret: str) -> set[bytes]:
    """Return a secret as it is, in hex, and as it looks within base64 wherever it begins there."""
    raw = secret.encode()
    found = {raw, raw.hex().encode()}
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + raw)
        found.add(coded[4 if shift else 0 : len(coded) // 4 * 4 - 4])
    return found


@dataclass
class Canaries:
    """The planted secrets by what they are; `users` are those that a request carries or makes."""

    users: dict[str, str]
    stack: dict[str, str]
    _forms: dict[str, set[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._forms = {name: forms(text) for name, text in (self.users | self.stack).items()}

    def found(self, data: bytes, *, of: dict[str, str] | None = None) -> set[str]:
        """Return which of them are in the data; never their values."""
        names = of if of is not None else self._forms
        return {name for name in names if any(form in data for form in self._forms[name])}


class Watch(threading.Thread):
    """Looks at all processes of this machine: closely at new ones, now and then at the others."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.environments: dict[tuple[int, bytes], bytes] = {}
        self._end = threading.Event()

    @property
    def argv(self) -> set[bytes]:
        """All command lines that were seen."""
        return {argv for _, argv in self.environments}

    def run(self) -> None:
        """Collect command lines and environments; a process may become another program."""
        looks: dict[int, int] = {}
        while not self._end.wait(SAMPLE_SECONDS):
            looks = {pid: looks.get(pid, 0) + 1 for pid in psutil.pids()}
            for pid, count in looks.items():
                if count <= CLOSE_LOOKS or count % CLOSE_LOOKS == 0:
                    self._look(Path("/proc", str(pid)))

    def _look(self, folder: Path) -> None:
        with suppress(OSError):
            argv = (folder / "cmdline").read_bytes()
            if argv and (int(folder.name), argv) not in self.environments:
                self.environments[int(folder.name), argv] = (folder / "environ").read_bytes()

    def stop(self) -> None:
        """End the watching."""
        self._end.set()
        self.join()


@dataclass
class Planted:
    """What the tests look at: the two servers, the canaries, and what was seen meanwhile."""

    server: Json
    failed: Json
    canaries: Canaries
    watch: Watch
    since: float


def _stack() -> StackConfig:
    config = read_stack(settings().home)
    assert config is not None
    return config


def _host_key(server_id: str) -> str:
    """Return a line of a guest's private key, which no other key has."""
    with transaction() as session:
        private = session.get_one(Server, UUID(server_id)).host_key_private
    assert private is not None
    return private.splitlines()[-3][:64]


def _wish(canaries: dict[str, str], port: int) -> Json:
    user_data = {
        "write_files": [
            {
                "path": "/root/from-user-data",
                "content": canaries["user-data"],
                "permissions": "0600",
            }
        ]
    }
    page = {"page": canaries["role variable"], "listen_port": port}
    return {
        "user_data": f"#cloud-config\n{json.dumps(user_data)}\n",
        "runcmd": [["sh", "-c", f"umask 077; echo {canaries['runcmd']} > /root/from-runcmd"]],
        "roles": [{"name": "static-site", "variables": page}],
        "root_password": True,
    }


@pytest.fixture(scope="module")
def planted(estate: Estate) -> Iterator[Planted]:
    """Create both servers under observation; everything else is in the tests."""
    since = time.time()
    users = {
        name: f"canary{os.urandom(15).hex()}" for name in ("user-data", "runcmd", "role variable")
    }
    project = unique("secret")  # its own: Terraform makes its network under observation
    estate.client.post("/projects", {"name": project})
    key = estate.client.post(
        "/keys", {"name": unique("canary"), "role": "user", "project": project}
    )

    def create(name: str, port: int) -> Json:
        body = {"name": unique(name), "image": "tiny", "plan": "tiny"} | _wish(users, port)
        answer: Json = estate.client.post("/servers", body, project=project)
        return answer

    watch = Watch()
    watch.start()
    try:
        good = create("secret", 8080)
        bad = create("secret-bad", 70000)
        host_key = _host_key(good["server_id"])
        server = estate.done(good)
        failed = estate.wait(bad)
        assert failed["phase"] == "failed"
        assert "TCP port" in failed["error"]
    finally:
        watch.stop()
    password = estate.client.post(f"/servers/{server['id']}/root-password")["root_password"]
    config = _stack()
    stack = {
        "admin's API key": (settings().home / "admin.key").read_text().strip(),
        "user's API key": key["key"],
        "database password": config.innkeeper_password,
        "Prefect's database password": config.prefect_password,
        "superuser's password": config.postgres_password,
        "key of the secrets at rest": settings().secret_key().decode(),
        "Innkeeper's SSH key": settings().identity_file.read_text().splitlines()[-3],
    }
    users |= {"host key": host_key, "root password": password}
    yield Planted(server, failed, Canaries(users, stack), watch, since)
    estate.clear()
    estate.client.delete(f"/keys/{key['id']}")


def test_the_secrets_arrived(estate: Estate, planted: Planted) -> None:
    """Nothing found would mean nothing, had they not been where they belong."""
    files = ["/root/from-user-data", "/root/from-runcmd", "/srv/site/index.html"]
    said = estate.login(planted.server, ["cat", *files])
    wanted = {"user-data", "runcmd", "role variable"}
    assert planted.canaries.found(said.encode()) == wanted
    assert planted.canaries.found(_seed(estate, planted.server).read_bytes()) >= {
        "user-data",
        "runcmd",
        "host key",
    }


def _seed(estate: Estate, server: Json) -> Path:
    (seed,) = Path(estate.host(server["host"]).pool_path).glob(f"{server['id']}*-seed.iso")
    return seed


def test_seed_and_disk_are_private(estate: Estate, planted: Planted) -> None:
    pool = Path(estate.host(planted.server["host"]).pool_path)
    modes = {f.name: f.stat().st_mode & 0o777 for f in pool.glob(f"{planted.server['id']}*")}
    assert modes == dict.fromkeys(modes, 0o600)
    assert len(modes) == 2, "disk and seed"


def test_command_lines(planted: Planted) -> None:
    seen = planted.watch.argv
    for program in (b"qemu-system-x86_64", b"terraform", b"ansible", b"ssh"):
        assert any(program in argv for argv in seen), f"{program!r} was not even seen"
    leaks = {argv for argv in seen if planted.canaries.found(argv)}
    assert {argv.split(b"\0")[0] for argv in leaks} == set()


def test_environments(planted: Planted) -> None:
    """What users entrust to us is in no environment; the stack's own keys only in our programs."""
    leaks = set()
    for (_, argv), environment in planted.watch.environments.items():
        names = planted.canaries.found(environment, of=planted.canaries.users)
        program = Path(os.fsdecode(argv.split(b"\0")[0])).name
        if program.startswith(("qemu", "dnsmasq", "ssh", "libvirtd", "ansible", "supervisord")):
            names |= planted.canaries.found(environment)
        leaks |= {(program, name) for name in names}
    assert leaks == set()


def _rows(conninfo: str, database: str) -> Iterator[tuple[str, bytes]]:
    """Yield every table of a database as text, whoever owns it."""
    with psycopg.connect(conninfo, dbname=database) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = "
            "'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        for schema, table in tables:
            copy = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, table))
            with connection.cursor().copy(copy) as rows:
                yield f"{schema}.{table}", b"".join(bytes(part) for part in rows)


@pytest.mark.parametrize("database", ["innkeeper", "prefect"])
def test_databases(planted: Planted, database: str) -> None:
    """Flow parameters, logs, task runs, artifacts, events, Terraform's states: all of it."""
    tables = dict(_rows(_stack().superuser_conninfo, database))
    full = {name for name, rows in tables.items() if rows}
    wanted = {
        "innkeeper": {"public.servers", "public.operations", "public.events", "public.api_keys"},
        "prefect": {"public.flow_run", "public.task_run", "public.log", "public.artifact"},
    }[database]
    assert wanted <= full, full
    if database == "innkeeper":
        assert any(planted.server["id"].encode() in rows for rows in tables.values())
        assert {name for name in full if name.endswith(".states")}, "Terraform's states"
    else:
        assert any(planted.failed["id"].encode() in rows for rows in tables.values())
    leaks = {
        name: found for name, rows in tables.items() if (found := planted.canaries.found(rows))
    }
    assert leaks == {}


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, folders, names in os.walk(root, onerror=None):
        folders[:] = [name for name in folders if not (Path(folder) / name).is_symlink()]
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):
                about = path.lstat()
                if path.is_file() and not path.is_symlink():
                    yield path, about


def test_files_of_the_home(estate: Estate, planted: Planted) -> None:
    """Secrets are where they have to be, and nobody else may read them there."""
    home = settings().home
    pool = Path(estate.host(planted.server["host"]).pool_path)
    pins = {estate.layout(host.name).pins for host in estate.lab.hosts()}
    leaks, logs = {}, 0
    for path, about in _files(home):
        if path.parent in {home / "images", *pins} or home / "pg" in path.parents:
            continue  # disks from before, namespaces; the databases have a test of their own
        found = planted.canaries.found(path.read_bytes())
        logs += path.parent == home / "logs"
        kept = str(path.relative_to(home)) in PRIVATE or (
            path.parent == pool and path.name.startswith(planted.server["id"])
        )
        if found and (not kept or about.st_mode & 0o077):
            leaks[str(path.relative_to(home))] = (sorted(found), oct(about.st_mode))
    assert leaks == {}
    assert logs > 3, "there are logs"


def test_files_elsewhere(planted: Planted) -> None:
    home = settings().home
    leaks = {}
    for root in OUTSIDE:
        for path, about in _files(root):
            if home in path.parents or about.st_mtime < planted.since or about.st_size > LARGEST:
                continue
            with suppress(OSError):
                if found := planted.canaries.found(path.read_bytes()):
                    leaks[str(path)] = sorted(found)
    assert leaks == {}


def test_answers_of_the_api(estate: Estate, planted: Planted) -> None:
    paths = ["/servers", "/operations", "/events", "/hosts", "/images", "/keys", "/projects"]
    answers: list[Any] = [list(estate.client.items(path)) for path in paths]
    answers += [estate.operation(planted.failed), estate.server(planted.failed)]
    assert planted.canaries.found(json.dumps(answers).encode()) == set()


def test_refusals_do_not_repeat_what_was_sent(estate: Estate, planted: Planted) -> None:
    text = planted.canaries.users["user-data"]
    wishes: list[Json] = [
        {"user_data": f"#cloud-config\nbroken: [{text}"},
        {"user_data": text},
        {"roles": [{"name": "static-site", "variables": {"page": text, "listen_port": "none"}}]},
    ]
    for wish in wishes:
        with pytest.raises(Exception, match=r".") as refusal:
            estate.create(unique("refused"), **wish)
        assert text not in f"{refusal.value}{vars(refusal.value)}"
    logs = b"".join(path.read_bytes() for path in (settings().home / "logs").iterdir())
    assert planted.canaries.found(logs) == set()


def test_deletion_forgets(estate: Estate, planted: Planted) -> None:
    pool = Path(estate.host(planted.server["host"]).pool_path)
    estate.clear()
    assert list(pool.glob(f"{planted.server['id']}*")) == []
    with transaction() as session:
        row = session.get_one(Server, UUID(planted.server["id"]))
        kept = (row.user_data, row.runcmd, row.role_requests, row.host_key_private)
        assert (*kept, row.root_password, row.root_password_hash) == (None,) * 6
