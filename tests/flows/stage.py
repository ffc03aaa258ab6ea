"""Simulated hosts, what runs on them, and how a verb is asked for whatever was done before.

The hypervisor is libvirt's test driver inside a real libvirtd, so what a dead run made stays.
"""

import gc
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Literal
from unittest import mock
from uuid import UUID, uuid4

import libvirt
import pytest
import sabotage
from pydantic import BaseModel
from sabotage import Point

from innkeeper import dispatch
from innkeeper.db import migrate
from innkeeper.db.session import engine_for
from innkeeper.domain.backing import MemoryTuning
from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import TRANSITIONS, Status, Verb
from innkeeper.domain.naming import POOL, server_of
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import (
    CloneRequest,
    DeleteSnapshotRequest,
    MigrateRequest,
    ResizeRequest,
    RevertRequest,
    ServerRequest,
    SnapshotRequest,
    VerifySnapshotRequest,
)
from innkeeper.domain.steps import STEPS
from innkeeper.domain.tuning import CpuTuning
from innkeeper.hypervisor import guest, network, storage
from innkeeper.hypervisor.connection import connect, forget
from innkeeper.hypervisor.errors import Absent
from innkeeper.hypervisor.guest import OwnedDomain
from innkeeper.lab.fleet import Lab
from innkeeper.services import accept, disks, identity, operations, reconcile, servers, snapshots
from innkeeper.services.views import DiskView, OperationView
from innkeeper.settings import settings
from tasks import reconciliation
from tests.flows.catalogue import FURTHER, catalogue

SILENCE = 0.2
_BARE = {Verb.REBUILD, Verb.RESIZE}
"""Verbs that some snapshots are in the way of."""
_APART = {Verb.SNAPSHOT, Verb.REVERT, Verb.DELETE_SNAPSHOT}
"""Verbs that take snapshots with the memory here, which data disks and cards are in the way of."""
_ALONG = {Verb.MIGRATE, Verb.SHELVE, Verb.UNSHELVE}
"""Verbs that everything goes along with."""
ON_DISKS = {Verb.ATTACH_DISK, Verb.DETACH_DISK, Verb.GROW_DISK}
ON_CARDS = {Verb.ATTACH_NIC, Verb.DETACH_NIC}
FAILING = {
    Verb.STOP: "stop",
    Verb.CREATE: "verify",
    Verb.REBUILD: "verify",
    Verb.SNAPSHOT: "adopt-snapshot",
    Verb.REVERT: "adopt-layer",
    Verb.RESIZE: "adopt-shape",
    Verb.SHELVE: "adopt-shelf",
    Verb.UNSHELVE: "adopt-disk",
    Verb.MIGRATE: "switch-over",
    Verb.CLONE: "verify-identity",
    Verb.VERIFY_SNAPSHOT: "probe-away",
    Verb.ATTACH_DISK: "adopt-attachment",
    Verb.DETACH_DISK: "let-go",
    Verb.GROW_DISK: "expand-data-disk",
    Verb.ATTACH_NIC: "adopt-nic",
    Verb.DETACH_NIC: "let-nic-go",
}
# Cold: the test driver cannot do it live.
BODIES: dict[Verb, BaseModel] = {Verb.MIGRATE: MigrateRequest(allow_power_cycle=True)}
POINTS = [point for verb in Verb for point in sabotage.points(verb)]
UNDO_POINTS = [
    point for verb, failing in FAILING.items() for point in sabotage.undo_points(verb, failing)
]
UNDO_POINTS += sabotage.undo_points(Verb.CLONE, "adopt-snapshot")  # the source is held still
UNDO_POINTS += sabotage.undo_points(Verb.DELETE_SNAPSHOT, "forget-snapshot")
IN_PREFECT = {
    *(point for point in POINTS if point.step == STEPS[point.verb][0] and point.moment == "after"),
    *{(point.verb, point.failing): point for point in UNDO_POINTS}.values(),
}
"""The points that Prefect's engine is a part of."""

_UP = {
    Status.STOPPED: Verb.START,
    Status.SUSPENDED: Verb.RESUME,
    Status.SHELVED: Verb.UNSHELVE,
}


@dataclass
class Stage:
    """Simulated hosts and what runs on them, kept over all points."""

    project_id: UUID
    hosts: dict[str, str]
    spawn: ForkServerContext
    standing: UUID | None = None
    made: list[UUID] = field(default_factory=list)
    run: Callable[[Verb, UUID], None] = sabotage.carry

    def die(self, point: Point, operation_id: UUID) -> None:
        """Have a run of the operation killed at the point, and whoever resumes it run alike."""
        self.run = sabotage.carry if point in IN_PREFECT else sabotage.walk
        died = sabotage.run_and_die(self.spawn, point, operation_id, self.run)
        assert died == -signal.SIGKILL

    def create(self) -> OperationView:
        """Have a server accepted."""
        wanted = ServerRequest(name=f"vm-{len(self.made)}", image="debian", plan="tiny")
        view = accept.create_server(wanted, project_id=self.project_id, actor="tester")
        self.made.append(view.server_id)
        return view

    def accept(self, verb: Verb, body: BaseModel | None = None) -> OperationView:
        """Have a verb accepted, on a server whose status allows it."""
        if verb is Verb.CREATE:
            return self.create()
        if verb in _BARE and self.standing and snapshots.page(self.standing).items:
            self.standing = None  # they are in its way
        if verb in _APART and self.standing and self.has_devices():
            self.standing = None
        if verb in _ALONG and self.standing and self.has_cards_alone():
            self.standing = None
        if self.standing is None:
            view = self.create()
            sabotage.hasten(Verb.CREATE, view.id)
            self.standing = view.server_id
        if verb is Verb.FLATTEN:
            self.standing = self.do(verb=Verb.CLONE, body=self.twin("linked")).server_id
        server_id = self.standing
        if verb is Verb.UNSHELVE:
            self.pack()
        allowed = TRANSITIONS[verb].allowed
        while (status := servers.get(server_id).status) not in allowed:
            away = {Status.SUSPENDED: Verb.SUSPEND, Status.SHELVED: Verb.SHELVE}
            down = next((away[rest] for rest in allowed if rest in away), Verb.STOP)
            self.do(_UP.get(status, down))
        prepare = self.about_disk if verb in ON_DISKS else self.prepare
        prepare = self.about_card if verb in ON_CARDS else prepare
        body = body or prepare(verb) or BODIES.get(verb)
        if verb is Verb.DELETE:
            self.standing = None
        return self.request(verb, server_id, body)

    def request(self, verb: Verb, server_id: UUID, body: BaseModel | None) -> OperationView:
        """Have a verb on that server accepted; a clone makes another one."""
        view = accept.request(verb, server_id, body, project_id=None, actor="tester")
        if verb is Verb.CLONE:
            self.made.append(view.server_id)
        return view

    def twin(self, mode: Literal["linked", "full"]) -> CloneRequest:
        """Return a request for a clone under a new name."""
        return CloneRequest(name=f"vm-{len(self.made)}", mode=mode)

    def do(self, verb: Verb, body: BaseModel | None = None) -> OperationView:
        """Carry a verb out on the standing server."""
        assert self.standing is not None
        view = self.request(verb, self.standing, body)
        sabotage.hasten(verb, view.id)
        return view

    def snapshot(self) -> str:
        """Take a snapshot with the memory, if there is one that may be; return its id."""
        assert self.standing is not None
        memory = servers.get(self.standing).status is Status.ACTIVE and not self.has_devices()
        return str(self.do(Verb.SNAPSHOT, SnapshotRequest(memory=memory)).snapshot_id)

    def kept(self) -> str:
        """Return a snapshot of the standing server; while it is suspended none can be taken."""
        assert self.standing is not None
        there = snapshots.page(self.standing, limit=100).items
        return str(there[0].id) if there else self.snapshot()

    def prepare(self, verb: Verb) -> BaseModel | None:
        """Have snapshots there where a verb needs them to show something."""
        assert self.standing is not None
        status = servers.get(self.standing).status
        if verb is Verb.CLONE:
            return self.twin("full")
        if verb is Verb.SNAPSHOT:
            return SnapshotRequest(memory=status is Status.ACTIVE)
        if verb is Verb.DELETE and status in TRANSITIONS[Verb.SNAPSHOT].allowed:
            self.fill()
        if verb in {Verb.MIGRATE, Verb.SHELVE}:
            self.pack()
        if verb is Verb.RESIZE:  # with a power cycle, if it runs
            now = servers.get(self.standing)
            return ResizeRequest(  # there and back
                vcpus=1 if now.vcpus > 1 else 2,
                memory_mib=512 if now.memory_mib < 512 else 192,
                disk_gib=now.disk_gib + 1,
                cpu=CpuTuning(limit=30 if now.cpu.get("limit") == 60 else 60),
                memory=MemoryTuning(hugepages=0 if now.memory.get("hugepages") else 2),
                allow_power_cycle=True,
            )
        if verb in {Verb.REVERT, Verb.VERIFY_SNAPSHOT}:
            shape = RevertRequest if verb is Verb.REVERT else VerifySnapshotRequest
            return shape(snapshot=self.kept() if verb is Verb.VERIFY_SNAPSHOT else self.snapshot())
        if verb is Verb.DELETE_SNAPSHOT:  # in the middle of a chain, and with a branch
            self.snapshot()
            middle = self.snapshot()
            self.snapshot()
            self.do(Verb.REVERT, RevertRequest(snapshot=middle))
            self.snapshot()
            return DeleteSnapshotRequest(snapshot=middle)
        return None

    def pack(self) -> None:
        """Give the standing server, if it has no data disks, what has to go along with it."""
        assert self.standing is not None
        if servers.get(self.standing).disks or servers.get(self.standing).status is Status.SHELVED:
            return
        self.snapshot()
        self.snapshot()
        self.attach()
        self.attach(format="raw", read_only=True, pool=FURTHER)
        self.plug_in("backend")
        self.plug_in(None)

    def has_cards_alone(self) -> bool:
        """Tell whether it has cards, which keep it from a memory, and no disks yet."""
        assert self.standing is not None
        view = servers.get(self.standing)
        return bool(view.nics[1:]) and not view.disks

    def fill(self) -> None:
        """Give the standing server what its deletion has to remove, or to keep."""
        assert self.standing is not None
        if not self.has_devices():  # they are in the way of a memory
            self.snapshot()
        self.plug_in("backend")
        self.attach(delete_on_server_delete=True)
        self.attach(delete_on_server_delete=False)

    def about_disk(self, verb: Verb) -> BaseModel:
        """Return a request to attach a disk, a kept one if there is one, to detach or to grow."""
        assert self.standing is not None
        there = servers.get(self.standing).disks
        if verb is Verb.ATTACH_DISK:
            if len(there) > 3:
                self.do(Verb.DETACH_DISK, DetachDiskRequest(disk=there[0].name))
            return self.disk()
        one = there[0] if there else self.attach()
        if verb is Verb.DETACH_DISK:
            return DetachDiskRequest(disk=one.name, keep=len(there) > 1)
        return GrowDiskRequest(disk=one.name, size_gib=one.size_gib + 1)

    def has_devices(self) -> bool:
        """Tell whether the standing server has data disks or further network cards."""
        assert self.standing is not None
        server = servers.get(self.standing)
        return bool(server.disks or server.nics[1:])

    def about_card(self, verb: Verb) -> BaseModel:
        """Return a request for a card, on an isolated or the own network, or to detach one."""
        assert self.standing is not None
        there = servers.get(self.standing).nics[1:]
        if verb is Verb.ATTACH_NIC:
            if len(there) > 2:
                self.do(Verb.DETACH_NIC, DetachNicRequest(nic=there[-1].name))
            return self.card("backend" if len(there) < 2 else None)
        one = there[0].name if there else self.plug_in("backend")
        return DetachNicRequest(nic=one)

    def card(self, isolated: str | None) -> AttachNicRequest:
        """Return a request for a network card."""
        kind: Literal["isolated", "project"] = "isolated" if isolated else "project"
        return AttachNicRequest(name=f"nic-{uuid4().hex[:8]}", network=kind, isolated=isolated)

    def plug_in(self, isolated: str | None) -> str:
        """Give the standing server a card, if it has room for one; return the last one's name."""
        assert self.standing is not None
        if len(servers.get(self.standing).nics) < 5:
            self.do(Verb.ATTACH_NIC, self.card(isolated))
        return servers.get(self.standing).nics[-1].name

    def disk(self) -> AttachDiskRequest:
        """Return a request for a kept disk, if there is one, or for a new raw one."""
        assert self.standing is not None
        here = servers.get(self.standing).host
        there = [view for view in disks.page(limit=100).items if view.host == here]
        if kept := [view for view in there if view.phase == "available"]:
            return AttachDiskRequest(name=kept[0].name, iops=7)
        name = f"disk-{uuid4().hex[:8]}"
        return AttachDiskRequest(name=name, size_gib=2, format="raw", pool=FURTHER)

    def attach(self, **fields: Any) -> DiskView:
        """Give the standing server a new disk."""
        assert self.standing is not None
        body = AttachDiskRequest(name=f"disk-{uuid4().hex[:8]}", size_gib=1, **fields)
        self.do(Verb.ATTACH_DISK, body)
        return next(one for one in servers.get(self.standing).disks if one.name == body.name)

    def traces(
        self, server_id: UUID, mac: str | None
    ) -> tuple[list[OwnedDomain], list[str], list[str]]:
        """Return the domains, files and DHCP entries of a server on all hosts."""
        domains, files, macs = [], [], []
        for uri in self.hosts.values():
            conn = connect(uri)
            domains += [d for d in guest.owned(conn) if d.server_id == server_id]
            with suppress(Absent):  # no server was ever placed there
                files += [n for n in storage.volume_names(conn, POOL) if server_of(n) == server_id]
            for name in network.network_names(conn):
                if name.startswith("innkeeper-"):
                    macs += [e.mac for e in network.dhcp_hosts(conn, name) if e.mac == mac]
        return domains, files, macs

    def recover(self) -> None:
        """Do what reconcile and a new worker do, until nothing is left to do.

        Nobody else is at work by now: who holds an operation is dead, and need not fall silent.
        """
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with mock.patch.object(settings(), "stale_after_seconds", 0.0):
                reconciliation.revive()
            reconciliation.dispatch_waiting(0.0)
            if not reconcile.running() and not operations.awaiting_dispatch(0.0):
                for host_id in reconcile.host_ids():
                    reconciliation.mend_host(host_id)
                return
            time.sleep(SILENCE / 2)
        pytest.fail("operations are stuck")


@pytest.fixture(scope="module")
def stage(prefect_server: str) -> Iterator[Stage]:
    del prefect_server
    place = Path(tempfile.mkdtemp(prefix="ik-kill-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INNKEEPER_HOME", str(place))
        patch.setenv("INNKEEPER_STALE_AFTER_SECONDS", str(SILENCE))
        patch.setenv("INNKEEPER_MEMORY_HEADROOM", "2")
        patch.delenv("DATABASE_URL", raising=False)
        patch.setattr(storage, "allocated", sabotage.weighed)
        _forget()
        lab = Lab(place, first_index=150)
        try:
            sockets = [host.uri.split("socket=")[1] for host in lab.up(2)]
            uris = [f"test+unix:///default?socket={socket}" for socket in sockets]
            hosts = dict(zip(("alpha", "beta"), uris, strict=True))
            # The test driver forgets all when nobody looks.
            keepers = [libvirt.open(uri) for uri in uris]
            for keeper in keepers:
                storage.ensure_pool(keeper, FURTHER, f"/innkeeper-{FURTHER}")
            migrate.upgrade()
            made = Stage(catalogue(place, hosts), hosts, sabotage.context())
            patch.setattr(dispatch, "dispatch", lambda view: made.run(view.verb, view.id))
            yield made
            for keeper, uri in zip(keepers, uris, strict=True):
                keeper.close()
                forget(uri)
        finally:
            lab.down(purge=True)
            _forget()
            shutil.rmtree(place)
            gc.collect()  # Prefect's sockets, here, where their warning is ignored


def _forget() -> None:
    engine_for(settings().database_url).dispose()
    engine_for.cache_clear()
    identity.public_key.cache_clear()
    settings.cache_clear()
