"""A server on a simulated host, to which verbs are done step by step, without Prefect's engine."""

import copy
from typing import Any
from uuid import UUID

import libvirt
from conftest import Catalogue
from journaled import carried
from pydantic import BaseModel

from innkeeper.db.models import Disk, Host, Server, Snapshot
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.domain.naming import POOL, server_of
from innkeeper.domain.specs import CloneRequest, DeleteSnapshotRequest, SnapshotRequest
from innkeeper.hypervisor import snapshot as adapter
from innkeeper.hypervisor import storage
from innkeeper.hypervisor.connection import connect
from innkeeper.services import accept, survey
from innkeeper.services.views import OperationView


class Life:
    """A server on a simulated host and what is done to it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        view = catalogue.create("web")
        self.server_id = view.server_id
        self.carry(view)

    def of(self, server_id: UUID) -> "Life":
        """Return the life of another server."""
        other = copy.copy(self)
        other.server_id = server_id
        return other

    def carry(self, view: OperationView, *, failing: str = "") -> OperationView:
        """Do an operation's steps in order; undo them when one fails."""
        return carried(view, failing=failing)

    def do(self, verb: Verb, body: BaseModel | None = None, *, failing: str = "") -> OperationView:
        view = accept.request(verb, self.server_id, body, project_id=None, actor="me")
        ended = self.carry(view, failing=failing)
        assert (ended.phase is Phase.FAILED) == bool(failing), ended.error
        assert survey.audit() == []
        return ended

    def take(self, name: str, **fields: Any) -> UUID:
        taken = self.do(Verb.SNAPSHOT, SnapshotRequest(name=name, **fields)).snapshot_id
        assert taken is not None
        return taken

    def delete(self, name: str, **more: Any) -> OperationView:
        return self.do(Verb.DELETE_SNAPSHOT, DeleteSnapshotRequest(snapshot=name), **more)

    @property
    def conn(self) -> libvirt.virConnect:
        with transaction() as session:
            server = session.get_one(Server, self.server_id)
            return connect(session.get_one(Host, server.host_id).uri)

    def files(self) -> dict[str, str]:
        """Return the server's files and what each leans on."""
        found = {}
        for name in storage.volume_names(self.conn, POOL):
            if server_of(name) == self.server_id:
                leans_on = storage.leans_on(self.conn, POOL, name)
                found[name] = leans_on.name if leans_on else ""
        return found

    @property
    def disk(self) -> str:
        """Return the disk that database and domain agree on."""
        with transaction() as session:
            volume = session.query(Disk).filter(Disk.server_id == self.server_id).one().volume
        assert adapter.root_disk(self.conn, self.server_id).name == volume
        return volume

    def volume(self, name: str) -> str:
        """Return the frozen file of a snapshot."""
        with transaction() as session:
            return session.query(Snapshot).filter(Snapshot.name == name).one().volume or ""

    def clone(self, name: str, *, failing: str = "", **fields: Any) -> "Life":
        """Clone the server; return the life of the new one."""
        ended = self.do(Verb.CLONE, CloneRequest(name=name, **fields), failing=failing)
        return self.of(ended.server_id)
