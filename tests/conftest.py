"""What every test may ask for: a home of its own, a migrated database, a catalogue to create from.

`database` runs a test twice, on SQLite and on PostgreSQL; a module that needs no more than one says
`@pytest.mark.parametrize("database", ["sqlite"], indirect=True)`.
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import hypothesis
import psycopg
import pytest
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from benchmarks.ports import free_ports
from innkeeper.db import migrate
from innkeeper.db.models import Host, Image, Plan, Project, Quota
from innkeeper.db.session import engine_for, transaction
from innkeeper.domain.specs import ServerRequest
from innkeeper.services import identity
from innkeeper.services.views import OperationView
from innkeeper.settings import settings
from innkeeper.stack import postgres
from innkeeper.stack.config import StackConfig

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

SHA256 = "5f" * 32
_STARTUP_SECONDS = 60
_OURS = ("DATABASE_URL", "INNKEEPER_SECRET_KEY", "INNKEEPER_API_KEY", "INNKEEPER_API_URL")


def _forget() -> None:
    """Drop what this process remembers of a home."""
    engine_for(settings().database_url).dispose()
    engine_for.cache_clear()
    identity.public_key.cache_clear()
    settings.cache_clear()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test an INNKEEPER_HOME of its own; its SQLite database has no tables yet."""
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    for name in _OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INNKEEPER_HOME", str(place))
    settings.cache_clear()
    engine_for.cache_clear()
    identity.public_key.cache_clear()
    yield place
    _forget()


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL server of the test session's own."""

    config: StackConfig
    template: str = "innkeeper_template"

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the URL of a database for SQLAlchemy."""
        place = f"{self.config.bind}:{self.config.postgres_port}/{database}"
        return f"postgresql+{driver}://postgres:{self.config.postgres_password}@{place}"

    def create(self, database: str, template: str = "template0") -> None:
        """Make a database as a copy of another one."""
        # With files that are never synced the old way takes a fraction of the new one's time.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
            sql.Identifier(database), sql.Identifier(template)
        )
        with psycopg.connect(self.config.superuser_conninfo, autocommit=True) as connection:
            connection.execute(statement)

    def drop(self, database: str) -> None:
        """Drop a database, whoever is still connected."""
        with psycopg.connect(self.config.superuser_conninfo, autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
            )


def _serve(config: StackConfig) -> subprocess.Popen[bytes]:
    dies_with_us = ("setpriv", "--pdeathsig", "INT")  # even when the tests are killed
    forgetful = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
    argv = [*dies_with_us, *postgres.command(config)]
    for option in forgetful:
        argv += ["-c", option]
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **_identity(),
    )


def _identity() -> dict[str, Any]:
    user = postgres.run_as()
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """Run a PostgreSQL server for the session, on a free port, with a migrated template."""
    place = Path(tempfile.mkdtemp(prefix="innkeeper-pg-"))
    place.chmod(0o711)  # the server's own user has to pass
    config = StackConfig(
        database_url="",
        bind="127.0.0.1",
        postgres_port=free_ports(1)[0],
        prefect_port=0,
        api_port=0,
        postgres_data=str(place / "data"),
        postgres_password=secrets.token_hex(16),
        innkeeper_password="",
        prefect_password="",
    )
    postgres.ensure_cluster(config)
    server = _serve(config)
    try:
        deadline = time.monotonic() + _STARTUP_SECONDS
        while not postgres.answers(config):
            assert server.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)
        cluster = Cluster(config)
        cluster.create(cluster.template)
        migrate.upgrade(cluster.url(cluster.template))
        engine_for(cluster.url(cluster.template)).dispose()
        yield cluster
    finally:
        server.send_signal(2)  # fast shutdown; a terminate would wait for clients
        server.wait(30)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite database to copy."""
    path = tmp_path_factory.mktemp("template") / "innkeeper.db"
    url = f"sqlite:///{path}"
    migrate.upgrade(url)
    engine_for(url).dispose()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Give the test a migrated, empty database of its own; return its kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), home / "innkeeper.db")
        yield "sqlite"
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    name = f"test_{secrets.token_hex(6)}"
    cluster.create(name, cluster.template)
    monkeypatch.setenv("DATABASE_URL", cluster.url(name))
    settings.cache_clear()
    try:
        yield "postgres"
    finally:
        engine_for(settings().database_url).dispose()
        cluster.drop(name)


@dataclass(frozen=True)
class Catalogue:
    """What there is to create servers from, and short ways to do it."""

    project_id: UUID
    image_id: UUID
    host_ids: dict[str, UUID]
    image: str = "debian"

    def create(self, name: str, *, key: str | None = None, **fields: Any) -> OperationView:
        """Have a server accepted: the plan `tiny` unless told otherwise."""
        from innkeeper.services import accept  # noqa: PLC0415 - most tests need no Ansible

        wanted = ServerRequest(name=name, **({"image": self.image, "plan": "tiny"} | fields))
        return accept.create_server(
            wanted, project_id=self.project_id, actor="tester", idempotency_key=key
        )

    def set_quota(self, **limits: int) -> None:
        """Change the project's quota."""
        with transaction() as session:
            quota = session.get_one(Quota, self.project_id)
            for name, limit in limits.items():
                setattr(quota, name, limit)

    def set_hosts(self, *names: str, **fields: Any) -> None:
        """Change the named hosts, or all."""
        with transaction() as session:
            for name in names or self.host_ids:
                host = session.get_one(Host, self.host_ids[name])
                for field, value in fields.items():
                    setattr(host, field, value)


@pytest.fixture
def catalogue(home: Path, database: str) -> Catalogue:
    """Put in a project, two plans, a ready image and the simulated hosts `alpha` and `beta`."""
    disk = home / "images" / f"{SHA256}.qcow2"
    disk.parent.mkdir(exist_ok=True)
    disk.write_bytes(b"QFI\xfb" + bytes(4092))
    project = Project(name="default")
    project.quota = Quota(project_id=project.id)
    image = Image(
        name="debian",
        source="file:///debian.qcow2",
        phase="ready",
        progress=1.0,
        sha256=SHA256,
        path=str(disk),
        size_bytes=disk.stat().st_size,
        virtual_size_bytes=1 << 30,
    )
    hosts = []
    for name in ("alpha", "beta"):
        node = home / f"{name}.xml"  # a file of its own makes it a machine of its own
        node.write_text("<node/>")
        hosts.append(
            Host(
                name=name,
                uri=f"test://{node}",
                channel=f"simulated:{name}",
                edge_address="127.0.0.1",
                pool_path="/default-pool",
                vcpus=8,
                memory_mib=16384,
                disk_gib=200,
                virt_type="test",
            )
        )
    with transaction() as session:
        session.add_all([project, image, *hosts])
        session.add(Plan(name="tiny", vcpus=1, memory_mib=192, disk_gib=1))
        session.add(Plan(name="small", vcpus=1, memory_mib=1024, disk_gib=10))
    return Catalogue(project.id, image.id, {host.name: host.id for host in hosts})


Race = Callable[[int, Callable[[int], Any]], list[Any]]


@pytest.fixture
def race() -> Race:
    """Return a way to call a function from many threads at the same moment.

    It gets the thread's number; what it returned, or raised, is in the list.
    """

    def run(threads: int, function: Callable[[int], Any]) -> list[Any]:
        start = threading.Barrier(threads)

        def one(number: int) -> Any:
            start.wait(30)
            try:
                return function(number)
            except Exception as error:  # noqa: BLE001 - the test judges it
                return error

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(threads)))

    return run


_LONGEST = (
    *("integration", "contract"),  # before those that share an estate
    *("test_migration.py", "test_faults.py", "test_life.py", "test_snapshots.py", "test_resize.py"),
    *("test_carrying.py", "test_shelving.py", "test_debian.py"),
)
"""Folders and modules of minutes, the longest first: so all processes end at about one time."""

_FILLING = {"flows", "unit"}
"""Folders whose tests hardly wait, and disturb nobody who does."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest where there are several processes; skip what needs root without."""
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="needs root: namespaces, bridges and cgroups"))


def _rank(item: pytest.Item) -> int:
    parts = item.nodeid.partition("::")[0].split("/")
    ranks = [place for place, name in enumerate(_LONGEST) if name in parts]
    return min(ranks, default=len(_LONGEST) + (parts[1] in _FILLING))


class _ByShare(LoadScopeScheduling):
    """Keeps a folder's tests in one process, for they share expensive fixtures.

    `unit` shares nothing, and `e2e` is worth an estate in each process: they go by file. Tests with
    guests wait much of their time. The last of three or more processes is for that time: it takes
    what computes, while the others begin with the rest, and then help it. It ends when no more of
    that is left: `flows` leaves this process tied to a Prefect server that is no estate's.
    """

    def _split_scope(self, nodeid: str) -> str:
        _tests, folder, *_ = nodeid.split("/", 2)
        return nodeid.partition("::")[0] if folder in {"e2e", "unit"} else folder

    def _assign_work_unit(self, node: WorkerController) -> None:
        if self.numnodes > 2 and node.gateway.id == f"gw{self.numnodes - 1}":
            filling = [scope for scope in self.workqueue if {*scope.split("/")} & _FILLING]
            if not filling:
                node.shutdown()
                return
            self.workqueue.move_to_end(filling[0], last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByShare:
    """Spread the tests (`-n`) by what they share."""
    return _ByShare(config, log)
