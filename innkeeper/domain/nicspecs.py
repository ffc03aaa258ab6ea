"""What people may ask of network cards."""

from ipaddress import IPv4Address, IPv4Interface
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from innkeeper.domain.cards import BRIDGE, LONGEST_BRIDGE, own_mac
from innkeeper.domain.specs import Chosen, Name, Rate

Kind = Literal["project", "isolated", "bridge", "vlan"]


def _address(text: str) -> str:
    return str(IPv4Address(text))


Label = Annotated[
    str, StringConstraints(pattern=r"^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$", max_length=32)
]
Ip = Annotated[str, StringConstraints(max_length=15), AfterValidator(_address)]


class AttachNicRequest(BaseModel):
    """A further network card for a server, and what it is plugged into."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name = Field(description="What to call it, unique among the server's cards")
    network: Kind = Field(
        default="project",
        description=(
            "project: the project's own network; isolated: a network of the project without a "
            "way out; bridge: one that the host's operator allows; vlan: such a bridge's VLAN"
        ),
    )
    isolated: Label | None = Field(
        default=None, description="Name of the isolated network; made with its first card"
    )
    bridge: Annotated[str, StringConstraints(pattern=BRIDGE)] | None = Field(
        default=None, description="Name of the host's bridge"
    )
    vlan: int | None = Field(default=None, ge=1, le=4094, description="Tag of the VLAN")
    mac: Annotated[str, StringConstraints(max_length=17), AfterValidator(own_mac)] | None = Field(
        default=None, description="A locally administered unicast one; else it is derived"
    )
    address: Annotated[str, StringConstraints(max_length=18)] | None = Field(
        default=None,
        description=(
            "IPv4 address; else the lowest free one. On a bridge with its prefix (192.0.2.7/24), "
            "where it is told at the next first boot"
        ),
    )
    gateway: Ip | None = Field(default=None, description="On a bridge: the way out")
    dns: list[Ip] = Field(default=[], max_length=3, description="On a bridge: name servers")

    inbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second to the guest, where the host can limit"
    )
    outbound_kb: Rate | None = Field(
        default=None, description="Most kilobytes a second from the guest, where the host can limit"
    )

    @property
    def limited(self) -> bool:
        """Tell whether its bandwidth is bounded."""
        return self.inbound_kb is not None or self.outbound_kb is not None

    @property
    def wire(self) -> str | None:
        """Return the host's bridge that it is plugged into, if it is one that the operator made."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    @model_validator(mode="after")
    def _fits(self) -> "AttachNicRequest":
        wanted = {"isolated": {"isolated"}, "bridge": {"bridge"}, "vlan": {"bridge", "vlan"}}
        needs = wanted.get(self.network, set())
        for field in ("isolated", "bridge", "vlan"):
            given = getattr(self, field) is not None
            if given != (field in needs):
                verb = "does not go with" if given else "is needed with"
                raise ValueError(f"{field} {verb} network '{self.network}'")
        if self.wire and len(self.wire) > LONGEST_BRIDGE:
            raise ValueError(
                f"'{self.wire}' is longer than the {LONGEST_BRIDGE} characters of a bridge's name"
            )
        self._check_address()
        return self

    def _check_address(self) -> None:
        if self.wire is None:
            if self.gateway or self.dns:
                raise ValueError(
                    f"gateway and dns go with a bridge: a card on network '{self.network}' is told "
                    "by DHCP"
                )
            if self.address is not None:
                self.address = _address(self.address)
            return
        if self.address is None:
            if self.gateway or self.dns:
                raise ValueError("gateway and dns need an address: without one, DHCP tells all")
            return
        own = IPv4Interface(self.address)
        edges = {own.network.network_address, own.network.broadcast_address}
        if "/" not in self.address or own.ip in edges:
            raise ValueError("on a bridge the address is a host's with its prefix: 192.0.2.7/24")
        way_out = IPv4Address(self.gateway) if self.gateway else None
        if way_out and (way_out not in own.network or way_out == own.ip):
            raise ValueError(f"the gateway {way_out} is not a neighbour in {own.network}")


class DetachNicRequest(BaseModel):
    """The network card to take from a server; not the primary one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    nic: Chosen = Field(description="Name or id of one of the server's further cards")
