"""A server on one of two simulated hosts, to which verbs are done without Prefect's engine."""

from typing import Any
from uuid import UUID

import libvirt
from conftest import Catalogue
from journaled import carried
from pydantic import BaseModel

from innkeeper.db.models import ShelfFile
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.naming import POOL, server_of
from innkeeper.domain.specs import UnshelveRequest
from innkeeper.hypervisor import guest, network, storage
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent
from innkeeper.services import accept, hosts, servers, survey
from innkeeper.services.views import OperationView, ServerView

NOTHING: tuple[list[Any], list[Any], list[Any]] = ([], [], [])


class Life:
    """A server on one of two simulated hosts and what is done to it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.server_id = self.create("web")

    def create(self, name: str) -> UUID:
        view = carried(self.catalogue.create(name))
        assert view.phase is Phase.SUCCEEDED, view.error
        return view.server_id

    def ask(self, verb: Verb, body: BaseModel | None = None) -> OperationView:
        return accept.request(verb, self.server_id, body, project_id=None, actor="me")

    def do(self, verb: Verb, body: BaseModel | None = None, *, failing: str = "") -> OperationView:
        ended = carried(self.ask(verb, body), failing=failing)
        assert (ended.phase is Phase.FAILED) == bool(failing), ended.error
        return ended

    def shelve(self) -> ServerView:
        self.do(Verb.SHELVE)
        assert survey.audit() == []
        return self.view

    def unshelve(self, host: str | None = None) -> ServerView:
        self.do(Verb.UNSHELVE, UnshelveRequest(host=host))
        assert survey.audit() == []
        return self.view

    @property
    def view(self) -> ServerView:
        return servers.get(self.server_id)

    @property
    def file(self) -> ShelfFile:
        with transaction() as session:
            of_server = session.query(ShelfFile).filter(ShelfFile.server_id == self.server_id)
            return of_server.filter(ShelfFile.volume.contains("-root")).one()

    def conn(self, host: str) -> libvirt.virConnect:
        return connect(hosts.get(self.catalogue.host_ids[host]).uri)

    def here(self, host: str) -> tuple[list[UUID], list[str], list[str]]:
        """Return the server's domain, files and DHCP entries on a host."""
        conn = self.conn(host)
        domains = [d.server_id for d in guest.owned(conn) if d.server_id == self.server_id]
        try:
            names = [n for n in storage.volume_names(conn, POOL) if server_of(n) == self.server_id]
        except Absent:
            names = []
        macs = [
            entry.mac
            for found in network.network_names(conn)
            if found.startswith("innkeeper-")
            for entry in network.dhcp_hosts(conn, found)
        ]
        return domains, names, [mac for mac in macs if mac == self.view.mac]


def used(host: str) -> tuple[int, int, int]:
    """Return the vCPUs, memory and disk that are reserved of a host."""
    view = next(view for view in hosts.all() if view.name == host)
    return view.reserved_vcpus, view.reserved_memory_mib, view.reserved_disk_gib
