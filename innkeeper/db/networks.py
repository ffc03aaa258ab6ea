"""The tables of networks: those of projects, network cards, addresses and port forwards."""

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from innkeeper.db.base import Base


class Network(Base):
    """A project's network on one host: the one that it has of itself, or an isolated one.

    An isolated network is made with its first card and goes with its last one; `label` is what
    people call it.
    """

    __tablename__ = "networks"
    # A server that moves takes its address along: then two hosts have a network of one CIDR.
    __table_args__ = (UniqueConstraint("host_id", "cidr"), UniqueConstraint("host_id", "name"))
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    host_id: Mapped[UUID] = mapped_column(ForeignKey("hosts.id"))
    name: Mapped[str] = mapped_column(String(63))
    bridge: Mapped[str] = mapped_column(String(15))
    cidr: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16), default="project")
    label: Mapped[str | None] = mapped_column(String(32), default=None)
    substrate_fingerprint: Mapped[str | None] = mapped_column(String(128), default=None)


class Nic(Base):
    """A network card of a server; written before it is plugged in, and gone after it was taken out.

    The one at position 0 is the primary: it carries address and forward, and comes and goes with
    its server. One on a bridge of its host is on none of our networks. `phase` is `attaching` or
    `attached`; `static` is what people said of a bridge that only they know: address with prefix,
    gateway and name servers.
    """

    __tablename__ = "nics"
    __table_args__ = (
        UniqueConstraint("server_id", "position"),
        UniqueConstraint("server_id", "name"),
        Index(
            "uq_nics_further_mac",
            "mac",
            unique=True,
            postgresql_where=text("position > 0"),
            sqlite_where=text("position > 0"),
        ),
    )
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"), index=True)
    network_id: Mapped[UUID | None] = mapped_column(ForeignKey("networks.id"))
    mac: Mapped[str] = mapped_column(String(17))
    name: Mapped[str] = mapped_column(String(63), default="primary")
    position: Mapped[int] = mapped_column(default=0)
    phase: Mapped[str] = mapped_column(String(16), default="attached")
    bridge: Mapped[str | None] = mapped_column(String(15), default=None)
    inbound_kb: Mapped[int | None] = mapped_column(default=None)  # kilobytes a second, at most
    outbound_kb: Mapped[int | None] = mapped_column(default=None)
    static: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class Address(Base):
    """An address that we allocated on a network."""

    __tablename__ = "addresses"
    __table_args__ = (UniqueConstraint("network_id", "ip"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    network_id: Mapped[UUID] = mapped_column(ForeignKey("networks.id"))
    nic_id: Mapped[UUID] = mapped_column(ForeignKey("nics.id"), index=True)
    ip: Mapped[str] = mapped_column(String(45))


class PortForward(Base):
    """A port at a host's edge that leads to a guest's port."""

    __tablename__ = "port_forwards"
    __table_args__ = (UniqueConstraint("host_id", "port"),)
    id: Mapped[UUID] = mapped_column(primary_key=True, default_factory=uuid4)
    host_id: Mapped[UUID] = mapped_column(ForeignKey("hosts.id"))
    server_id: Mapped[UUID] = mapped_column(ForeignKey("servers.id"), index=True)
    port: Mapped[int]
    guest_port: Mapped[int] = mapped_column(default=22)
    enabled: Mapped[bool] = mapped_column(default=False)
