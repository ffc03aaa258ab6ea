"""What a host and a project's network on it should look like, as variables of a Terraform root."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol
from uuid import UUID

from innkeeper.domain import naming

Root = Literal["host", "network"]
SIMULATED = ("test:", "test+unix:")


class Substrate(Protocol):
    """Something that one Terraform root makes in one workspace."""

    @property
    def root(self) -> Root:
        """Name of the folder in terraform/roots."""

    @property
    def workspace(self) -> str:
        """Terraform workspace, and so the state, of this one."""

    @property
    def variables(self) -> dict[str, Any]:
        """Values of the root's variables; none of them is secret."""

    @property
    def simulated(self) -> bool:
        """Tell whether the host is libvirt's test driver, which Terraform cannot reach."""


@dataclass(frozen=True)
class HostSubstrate:
    """The storage pool of a host and the base images in it.

    `images` maps the name of a base volume (derived from its content's hash) to a qcow2 file on
    this machine. Images that the host has and that are not named here stay.
    """

    host_id: UUID
    uri: str
    pool_path: str
    images: Mapping[str, str | Path] = field(default_factory=dict)
    pool: str = naming.POOL
    root: ClassVar[Root] = "host"

    @property
    def workspace(self) -> str:
        """One state a host."""
        return f"host-{naming.short(self.host_id)}"

    @property
    def variables(self) -> dict[str, Any]:
        """Values of the variables in terraform/roots/host."""
        return {
            "uri": self.uri,
            "pool": {"name": self.pool, "path": self.pool_path},
            "images": {
                name: {"source": str(source), "format": "qcow2"}
                for name, source in sorted(self.images.items())
            },
        }

    @property
    def simulated(self) -> bool:
        """Tell whether the host is libvirt's test driver."""
        return self.uri.startswith(SIMULATED)


@dataclass(frozen=True)
class NetworkSubstrate:
    """A network of one project on one host; an isolated one has no way out and no names."""

    host_id: UUID
    project_id: UUID
    uri: str
    name: str
    bridge: str
    cidr: str
    isolated: bool = False
    root: ClassVar[Root] = "network"

    @property
    def workspace(self) -> str:
        """One state a project and host, and one more for each further network there."""
        further = self.name.removeprefix(naming.network_name(self.project_id))
        own = further if further != self.name else ""
        return f"net-{naming.short(self.project_id)}-{naming.short(self.host_id)}{own}"

    @property
    def variables(self) -> dict[str, Any]:
        """Values of the variables in terraform/roots/network."""
        return {
            "uri": self.uri,
            "name": self.name,
            "bridge": self.bridge,
            "cidr": self.cidr,
            "mode": "none" if self.isolated else "open",
            "dns": not self.isolated,
        }

    @property
    def gateway_cidr(self) -> str:
        """The host's own address on the network, with its prefix: the first one."""
        network = IPv4Network(self.cidr)
        return f"{network[1]}/{network.prefixlen}"

    @property
    def simulated(self) -> bool:
        """Tell whether the host is libvirt's test driver."""
        return self.uri.startswith(SIMULATED)
