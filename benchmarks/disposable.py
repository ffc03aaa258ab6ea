"""A stack in a home of its own, with lab hosts: for benchmarks and end-to-end tests."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_ports
from innkeeper import dispatch
from innkeeper.cli.client import Client, Json
from innkeeper.db.session import engine_for
from innkeeper.hypervisor.connection import forget
from innkeeper.lab.fleet import Lab
from innkeeper.services import identity
from innkeeper.settings import settings
from innkeeper.stack import lifecycle
from innkeeper.stack.config import cluster_folder
from innkeeper.stack.hooks import deploy, migrate

HOST_MEMORY_MIB = 4096
HOST_VCPUS = 16
_FOREIGN = ("INNKEEPER_", "PREFECT_", "DATABASE_URL")


@dataclass(frozen=True)
class DisposableStack:
    """A running stack; what is on `undo` is called before it goes down."""

    home: Path
    client: Client
    undo: ExitStack

    def add_lab_hosts(self, count: int, *, first_index: int) -> Lab:
        """Bring up and register lab hosts, in the first free networks from 10.88.`first_index`.0.

        They have more vCPUs than the machine, as their guests do little. Those that are
        registered already stay as they are.
        """
        lab = Lab(self.home, first_index=first_index)
        self.undo.callback(lab.down, purge=True)
        known = {host["name"] for host in self.client.items("/hosts")}
        for host in [host for host in lab.up(count) if host.name not in known]:
            self.undo.callback(forget, host.uri)
            body: Json = {
                "name": host.name,
                "uri": host.uri,
                "channel": host.channel_address,
                "edge_address": host.edge_address,
                "pool_path": host.pool_path,
                "memory_mib": HOST_MEMORY_MIB,
                "vcpus": HOST_VCPUS,
            }
            self.client.post("/hosts", body)
        return lab


@contextmanager
def disposable_stack(
    prefix: str, given: Mapping[str, str], kept: Collection[str]
) -> Iterator[DisposableStack]:
    """Bring a stack up in a new folder and on free ports; nothing of it is left afterwards.

    Of the environment variables that are Innkeeper's or Prefect's it sees those `given` and those
    `kept`, and no others.
    """
    home = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with _environment(home, given, kept), ExitStack() as undo:
            undo.callback(shutil.rmtree, cluster_folder(home), ignore_errors=True)
            undo.callback(lifecycle.down)
            lifecycle.up(hooks=lifecycle.Hooks(migrate=migrate, deploy=deploy))
            settings.cache_clear()
            key = (home / "admin.key").read_text().strip()
            client = undo.enter_context(Client(settings().api_url, key))
            yield DisposableStack(home, client, undo)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _environment(home: Path, given: Mapping[str, str], kept: Collection[str]) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name.startswith(_FOREIGN) and name not in kept:
            del os.environ[name]
    postgres, prefect, api = free_ports(3)
    os.environ.update(
        {
            "INNKEEPER_HOME": str(home),
            "INNKEEPER_POSTGRES_PORT": str(postgres),
            "INNKEEPER_PREFECT_PORT": str(prefect),
            "INNKEEPER_API_PORT": str(api),
            **given,
        }
    )
    settings.cache_clear()
    try:
        yield
    finally:
        _forget()
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()


def _forget() -> None:
    """Drop what this process remembers of a home."""
    engine_for(settings().database_url).dispose()
    engine_for.cache_clear()
    identity.public_key.cache_clear()
    dispatch.starter().close()
    dispatch._starter_for.cache_clear()  # noqa: SLF001 - a closed one serves nobody
    settings.cache_clear()
