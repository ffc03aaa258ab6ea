"""What starters and flows share: deployment names and the parameters of a run.

A run carries the operation's id and nothing secret. A run that a person starts in the Prefect UI
has no operation yet: it carries the request itself and enters through the same accepting service.
"""

from uuid import UUID

from pydantic import BaseModel

from innkeeper.domain.diskspecs import AttachDiskRequest, DetachDiskRequest, GrowDiskRequest
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.nicspecs import AttachNicRequest, DetachNicRequest
from innkeeper.domain.specs import (
    CloneRequest,
    ConfigureRequest,
    DeleteSnapshotRequest,
    MigrateRequest,
    NoParameters,
    RebootRequest,
    RebuildRequest,
    ResizeRequest,
    RevertRequest,
    ServerRequest,
    ShelveRequest,
    SnapshotRequest,
    StopRequest,
    SuspendRequest,
    UnshelveRequest,
    VerifySnapshotRequest,
)

REQUESTS: dict[Verb, type[BaseModel]] = {
    Verb.CREATE: ServerRequest,
    Verb.START: NoParameters,
    Verb.STOP: StopRequest,
    Verb.REBOOT: RebootRequest,
    Verb.REBUILD: RebuildRequest,
    Verb.CONFIGURE: ConfigureRequest,
    Verb.SUSPEND: SuspendRequest,
    Verb.RESUME: NoParameters,
    Verb.SHELVE: ShelveRequest,
    Verb.UNSHELVE: UnshelveRequest,
    Verb.MIGRATE: MigrateRequest,
    Verb.DELETE: NoParameters,
    Verb.SNAPSHOT: SnapshotRequest,
    Verb.REVERT: RevertRequest,
    Verb.DELETE_SNAPSHOT: DeleteSnapshotRequest,
    Verb.RESIZE: ResizeRequest,
    Verb.CLONE: CloneRequest,
    Verb.FLATTEN: NoParameters,
    Verb.VERIFY_SNAPSHOT: VerifySnapshotRequest,
    Verb.ATTACH_DISK: AttachDiskRequest,
    Verb.DETACH_DISK: DetachDiskRequest,
    Verb.GROW_DISK: GrowDiskRequest,
    Verb.ATTACH_NIC: AttachNicRequest,
    Verb.DETACH_NIC: DetachNicRequest,
}

RECONCILE = "reconcile/reconcile"
IMPORT_IMAGE = "import-image/import-image"
DRAIN_HOST = "drain-host/drain-host"


def flow_name(verb: Verb) -> str:
    """Return the Prefect flow's name, for example `create-server`."""
    return str(verb) if "-" in verb else f"{verb}-server"  # some name what they are about


def deployment_name(verb: Verb) -> str:
    """Return the deployment that carries a verb, as `flow/deployment`."""
    return f"{flow_name(verb)}/{flow_name(verb)}"


class Claim(BaseModel, frozen=True):
    """What a flow run holds: one attempt of one operation on one server.

    `attempt` is the fencing token: a step whose attempt is no longer current does nothing. `over`
    is the claim of a run that has nothing to do: what it asked for is done, or another run's.
    """

    operation_id: UUID
    server_id: UUID
    verb: Verb
    attempt: int
    undoing: bool = False
    over: bool = False
    actor: str = "system"
