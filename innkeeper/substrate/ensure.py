"""What the rest of Innkeeper calls: see that a substrate is there, by Terraform or simulated."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from innkeeper.errors import HostUnreachable, PermanentError
from innkeeper.hypervisor import network, storage
from innkeeper.hypervisor.connection import connect, still_answers
from innkeeper.hypervisor.errors import translated
from innkeeper.substrate import roots, simulated
from innkeeper.substrate.backend import State
from innkeeper.substrate.failure import TerraformFailed
from innkeeper.substrate.spec import HostSubstrate, NetworkSubstrate
from innkeeper.substrate.terraform import Applied, Plan, Terraform, addresses

Told = Callable[[str], None]

POOL_ADDRESS = "module.pool.libvirt_pool.this"
NETWORK_ADDRESS = "module.network.libvirt_network.this"


class ImageFileMissing(PermanentError):
    """The verified file of an image is not in the store any more."""

    slug = "image-file-missing"
    title = "Image file missing"


def image_address(volume: str) -> str:
    """Return the Terraform address of a base volume."""
    return f'module.image["{volume}"].libvirt_volume.this'


def fingerprint(spec: HostSubstrate | NetworkSubstrate) -> str:
    """Return a hash of what the substrate is made of; equal means that an apply can be skipped."""
    return roots.fingerprint(spec.root, spec.variables)


def ensure_host(
    spec: HostSubstrate,
    *,
    on_plan: Told | None = None,
    deadline_seconds: float | None = None,
    without: Collection[str] = (),
) -> Applied:
    """See that a host has its pool and base images; images that it has already stay.

    Args:
        spec: the host; its images are files on this machine.
        on_plan: is given the plan's text before something is changed.
        deadline_seconds: for everything together; `terraform_seconds` of the settings if None.
        without: base volumes to delete; the caller knows that no disk stands on them.

    Raises:
        ImageFileMissing: an image that the host does not have yet is not in the store.
        NameTaken: a pool of that name exists in another folder.
        TransientError, PermanentError: as `Terraform.apply`.
    """
    if spec.simulated:
        before = is_present(spec)
        _check_files(spec.images, ())
        return Applied(not before, "", simulated.ensure_host(spec))
    with _same_daemon(spec.uri) as answers:
        return Terraform(answers=answers).apply(
            spec.root,
            spec.workspace,
            partial(_with_kept_images, spec, frozenset(without)),
            on_plan=on_plan,
            deadline_seconds=deadline_seconds,
            may_delete=[image_address(name) for name in without],
            adopt=partial(_existing_pool, spec),
            is_present=partial(is_present, spec),
        )


def ensure_network(
    spec: NetworkSubstrate,
    *,
    on_plan: Told | None = None,
    deadline_seconds: float | None = None,
) -> Applied:
    """See that a project's network exists on a host, active.

    Raises:
        NameTaken: a network of that name exists with another bridge or address.
        TransientError, PermanentError: as `Terraform.apply`.
    """
    if spec.simulated:
        before = is_present(spec)
        return Applied(not before, "", simulated.ensure_network(spec))
    with _same_daemon(spec.uri) as answers:
        applied = Terraform(answers=answers).apply(
            spec.root,
            spec.workspace,
            spec.variables,
            on_plan=on_plan,
            deadline_seconds=deadline_seconds,
            adopt=partial(_existing_network, spec),
            is_present=partial(is_present, spec),
        )
    if not is_present(spec):  # Terraform does not notice a network that somebody stopped
        _existing_network(spec)
    return applied


@contextmanager
def _same_daemon(uri: str) -> Iterator[Callable[[], bool]]:
    """Yield a way to see whether libvirtd is the one that it was; else its loss is the error.

    The provider then speaks of an "invalid argument", as of a mistake that no retry would mend.
    """
    answers = partial(still_answers, connect(uri))
    try:
        yield answers
    except TerraformFailed as error:
        if answers():
            raise
        raise HostUnreachable(
            f"libvirtd at {uri} was restarted while Terraform worked there ({error})."
        ) from error


def remove(
    spec: HostSubstrate | NetworkSubstrate, *, deadline_seconds: float | None = None
) -> bool:
    """Remove a substrate and its state; return whether there was one. Fine when there is none.

    The caller knows that nothing stands on it: a pool that still holds files is refused.
    """
    if spec.simulated:
        return False  # the test driver's objects are its process's
    variables = spec.variables
    if isinstance(spec, HostSubstrate):
        variables = _with_kept_images(spec, frozenset(), Terraform().backend.state(spec.workspace))
    return Terraform().destroy(
        spec.root, spec.workspace, variables, deadline_seconds=deadline_seconds
    )


def forget(spec: HostSubstrate | NetworkSubstrate) -> None:
    """Drop the state of a substrate on a host that is gone; fine when there is none."""
    if not spec.simulated:
        Terraform().drop(spec.workspace, lost=True)


def drift(spec: HostSubstrate | NetworkSubstrate, *, deadline_seconds: float | None = None) -> Plan:
    """Return what differs between the host and what was applied there; changes nothing."""
    if spec.simulated:
        there = is_present(spec)
        return Plan(not there, "" if there else "The simulated substrate is not complete.")
    variables = spec.variables
    if isinstance(spec, HostSubstrate):
        variables = _with_kept_images(spec, frozenset(), Terraform().backend.state(spec.workspace))
    return Terraform().plan(spec.root, spec.workspace, variables, deadline_seconds=deadline_seconds)


@translated()
def is_present(spec: HostSubstrate | NetworkSubstrate) -> bool:
    """Tell within milliseconds, from libvirt, whether everything of a substrate is there.

    Together with an unchanged fingerprint it makes skipping safe: also after somebody removed or
    stopped a network or a pool by hand.

    Raises:
        HostUnreachable: the host does not answer.
    """
    conn = connect(spec.uri)
    if isinstance(spec, NetworkSubstrate):
        if spec.name not in network.network_names(conn):
            return False
        return bool(conn.networkLookupByName(spec.name).isActive())
    pools = {pool.name(): pool for pool in conn.listAllStoragePools(0)}
    if spec.pool not in pools or not pools[spec.pool].isActive():
        return False
    # Without a refresh of the pool, which would wait for uploads and read every volume.
    return set(spec.images) <= set(pools[spec.pool].listVolumes())


def _with_kept_images(
    spec: HostSubstrate, without: frozenset[str], state: State | None
) -> dict[str, Any]:
    """Return the variables with the images that the host has: another create may need them."""
    kept = {
        values["name"]: {"source": values["source"] or "", "format": values["format"] or "qcow2"}
        for values in _volumes(state or {})
    }
    _check_files(spec.images, kept)
    variables = spec.variables
    # Where an image was uploaded from does not matter any more, unless it has to be again.
    known = {name: image for name, image in kept.items() if Path(image["source"]).is_file()}
    images = kept | variables["images"] | known
    variables["images"] = {name: images[name] for name in sorted(images) if name not in without}
    return variables


def _volumes(state: State) -> list[dict[str, Any]]:
    return [
        instance["attributes"]
        for resource in state.get("resources", ())
        if resource.get("type") == "libvirt_volume"
        for instance in resource["instances"]
    ]


def _check_files(images: Mapping[str, str | Path], kept: Collection[str]) -> None:
    for name, source in images.items():
        if name not in kept and not Path(source).is_file():
            raise ImageFileMissing(
                f"The image file {source} is missing: import the image again, then retry."
            )


@translated()
def _existing_pool(spec: HostSubstrate) -> dict[str, str]:
    """Complete a pool that Terraform's state does not know; return its id by its address."""
    conn = connect(spec.uri)
    storage.ensure_pool(conn, spec.pool, spec.pool_path)
    return {POOL_ADDRESS: conn.storagePoolLookupByName(spec.pool).UUIDString()}


@translated()
def _existing_network(spec: NetworkSubstrate) -> dict[str, str]:
    """Complete a network that Terraform's state does not know; return its id by its address."""
    conn = connect(spec.uri)
    network.ensure_network(conn, spec.name, spec.bridge, spec.gateway_cidr, isolated=spec.isolated)
    return {NETWORK_ADDRESS: conn.networkLookupByName(spec.name).UUIDString()}


def state_holds(spec: HostSubstrate | NetworkSubstrate) -> list[str]:
    """Return the addresses that the state of a substrate holds, without starting Terraform."""
    return addresses(Terraform().backend.state(spec.workspace) or {})
