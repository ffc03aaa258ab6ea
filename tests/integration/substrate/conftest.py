"""One lab host for all tests with the real Terraform, and what is applied to it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from uuid import uuid4

import psycopg
import pytest
from conftest import Cluster
from psycopg import sql
from substrates import CANARY, a_network, make_image, numbers

from innkeeper import settings as settings_module
from innkeeper.lab.fleet import Lab, LabHost
from innkeeper.settings import Settings
from innkeeper.substrate import HostSubstrate, NetworkSubstrate


def _missing() -> str | None:
    found = Settings()
    if os.geteuid() != 0:
        return "the lab needs root"
    if not shutil.which("libvirtd"):
        return "libvirt is not installed"
    if not shutil.which(found.terraform_binary) or not found.terraform_cli_config.exists():
        return "Terraform is not set up: run make terraform"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a lab and Terraform; skip it where they are missing, and say why."""
    missing = _missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)
            item.add_marker(pytest.mark.terraform)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="package")
def folder() -> Iterator[Path]:
    """A short path: Unix sockets allow 107 characters."""
    made = Path(mkdtemp(prefix="iktf"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="package")
def lab_host(folder: Path) -> Iterator[LabHost]:
    lab = Lab(folder, first_index=60)
    yield lab.up(1)[0]
    lab.down(purge=True)


@pytest.fixture(scope="package")
def image(folder: Path) -> Path:
    return make_image(folder / "image.qcow2")


@pytest.fixture(scope="package")
def postgres(postgres_cluster: Cluster) -> str:
    """Make a database for states; return its URL, whose password one can look for."""
    role = sql.Identifier("terraform")
    with psycopg.connect(postgres_cluster.config.superuser_conninfo, autocommit=True) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, CANARY))
        session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
    config = postgres_cluster.config
    place = f"{config.bind}:{config.postgres_port}"
    return f"postgresql+psycopg://terraform:{CANARY}@{place}/terraform"


@pytest.fixture
def home(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A home whose states are files, or rows in PostgreSQL."""
    kind = getattr(request, "param", "sqlite")
    made = folder / f"home-{kind}"
    cache = Settings().cache
    if kind == "postgresql":
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres"))
    else:
        monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("INNKEEPER_HOME", str(made))
    monkeypatch.setenv("INNKEEPER_CACHE", str(cache))
    settings_module.settings.cache_clear()
    yield made
    settings_module.settings.cache_clear()


@pytest.fixture
def host(home: Path, lab_host: LabHost, image: Path) -> HostSubstrate:
    identifier = uuid4()
    return HostSubstrate(
        host_id=identifier,
        uri=lab_host.uri,
        pool=f"pool-{identifier.hex[:6]}",
        pool_path=f"{lab_host.pool_path}/{identifier.hex[:6]}",
        images={"image-one.qcow2": image},
    )


@pytest.fixture
def network(home: Path, lab_host: LabHost) -> NetworkSubstrate:
    return a_network(lab_host, uuid4(), next(numbers))
