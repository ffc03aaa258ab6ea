"""What a server stands on: the host's pool with the base image, and the project's network.

Terraform owns both. When the fingerprint is the one that was applied last and libvirt shows
everything in place, nothing is started: that costs milliseconds.
"""

from collections.abc import Callable

from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext

from innkeeper import substrate
from innkeeper.errors import PermanentError
from innkeeper.services import networks, substrates
from innkeeper.services.blueprint import Blueprint
from innkeeper.substrate import HostSubstrate, NetworkSubstrate
from tasks.shown import only_shown
from tasks.step import step


def host_of(b: Blueprint) -> tuple[HostSubstrate, str | None]:
    """Return the host's substrate with this server's image, and the fingerprint applied last."""
    images, applied = substrates.want_image(b.host.id, b.image.volume)
    return HostSubstrate(b.host.id, b.host.uri, b.host.pool_path, images), applied


def network_of(b: Blueprint) -> NetworkSubstrate:
    """Return the substrate of the project's network on the host."""
    network = b.network
    return NetworkSubstrate(
        b.host.id, b.project_id, b.host.uri, network.name, network.bridge, network.cidr
    )


def show(key: str) -> Callable[[str], None]:
    """Return a function that puts a plan on the run's page."""

    def show(plan: str) -> None:
        if plan and TaskRunContext.get() is not None:
            with only_shown():
                create_markdown_artifact(  # type: ignore[call-arg]
                    f"```\n{plan}\n```", key=key, description="Terraform plan", _sync=True
                )

    return show


def _is_current(spec: HostSubstrate | NetworkSubstrate, applied: str | None) -> bool:
    return applied == substrate.fingerprint(spec) and substrate.is_present(spec)


@step("substrate")
def ensure_substrate(b: Blueprint) -> str:
    """Ensure pool, base image and project network on the host; skipped when unchanged.

    A host that cannot keep the server's limit of bandwidth is found out first.
    """
    if b.limited:
        networks.require_shaping(b.host.id)
    host, applied = host_of(b)
    done = []
    if not _is_current(host, applied):
        try:
            done.append(substrate.ensure_host(host, on_plan=show("plan-host")).changed)
        except PermanentError:
            substrates.forget_image(b.host.id, b.image.volume)
            raise
        substrates.record_host(b.host.id, substrate.fingerprint(host))
    network = network_of(b)
    if not _is_current(network, b.network.substrate_fingerprint):
        done.append(substrate.ensure_network(network, on_plan=show("plan-network")).changed)
        substrates.record_network(b.network.id, substrate.fingerprint(network))
    if not done:
        return "unchanged: Terraform was not needed"
    return "applied" if any(done) else "Terraform found nothing to change"
