"""The edge of a host: the port that leads to the guest's SSH."""

from innkeeper.domain.steps import ArtifactKind
from innkeeper.services import edges
from innkeeper.services.blueprint import Blueprint
from tasks.step import step


def _forward(b: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.FORWARD, str(b.ssh_port))]


@step("forward", makes=_forward)
def open_forward(b: Blueprint) -> str:
    """Open the guest's SSH port at the edge of its host."""
    edges.open_forward(b.claim, b.host.id, opened=True)
    return f"{b.host.edge_address}:{b.ssh_port} leads to {b.ip}:22"


@open_forward.undone_by
def shut_forward(b: Blueprint) -> str:
    """Close the port again."""
    edges.open_forward(b.claim, b.host.id, opened=False)
    return f"{b.host.edge_address}:{b.ssh_port} closed"


@step("remove-forward", removes=_forward, on_host=True)
def close_forward(b: Blueprint) -> str:
    """Close the guest's port at the edge of its host."""
    return shut_forward(b) or ""
