"""The network cable of a lab host: a veth pair between the root namespace and the host.

Host number i has 10.88.i.2, we have 10.88.i.1. There is no way from the host to the outside: the
root namespace neither forwards nor translates for it.
"""

import json
import os
import subprocess
from pathlib import Path
from socket import AF_INET

from pyroute2 import IPRoute, NetlinkError

from innkeeper.lab.errors import LabCannotStart

INNER = "edge0"
PREFIX_LENGTH = 30
SECONDS = 10.0
INDEXES = range(1, 255)


def outer_address(index: int) -> str:
    """Return our end's address."""
    return f"10.88.{index}.1"


def edge_address(index: int) -> str:
    """Return the host's address, where its forwards are."""
    return f"10.88.{index}.2"


def choose_index(recorded: int | None, own_veth: str, first: int) -> int:
    """Return the recorded index, or the lowest free one from `first` when another cable has it.

    Raises:
        LabCannotStart: all are taken.
    """
    with IPRoute() as netlink:
        own = set(netlink.link_lookup(ifname=own_veth))
        addresses = [
            (entry["index"], entry.get_attr("IFA_ADDRESS") or "") for entry in netlink.get_addr()
        ]
    used = {a.split(".")[2] for i, a in addresses if a.startswith("10.88.") and i not in own}
    if recorded is not None and str(recorded) not in used:
        return recorded
    free = [i for i in INDEXES if i >= first and str(i) not in used]
    if not free:
        raise LabCannotStart("All 10.88.x.0 networks are in use: take another lab down first.")
    return free[0]


def plug(veth: str, namespace: Path, index: int) -> None:
    """Make sure that the cable exists, is up and carries its addresses.

    What is right already is not touched: losing an address, even briefly, would cut connections.

    Raises:
        LabCannotStart: the kernel refused.
    """
    try:
        if not _plug_inside(namespace, index):
            unplug(veth)  # its other end is in a namespace that is no more
            _make(veth, namespace)
            if not _plug_inside(namespace, index):
                raise LabCannotStart(f"The inner end of {veth} takes no address.")
        _plug_outside(veth, index)
    except (NetlinkError, OSError, subprocess.SubprocessError) as error:
        raise LabCannotStart(f"The lab host's network could not be made: {error}") from error


def unplug(veth: str) -> None:
    """Remove the cable; its absence is fine."""
    with IPRoute() as netlink:
        for link in netlink.link_lookup(ifname=veth):
            netlink.link("del", index=link)


def _make(veth: str, namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        with IPRoute() as netlink:
            peer = {"ifname": INNER, "net_ns_fd": descriptor}
            netlink.link("add", ifname=veth, kind="veth", peer=peer)
    finally:
        os.close(descriptor)


def _plug_outside(veth: str, index: int) -> None:
    with IPRoute() as netlink:
        link = netlink.link_lookup(ifname=veth)[0]
        present = [e.get_attr("IFA_ADDRESS") for e in netlink.get_addr(index=link, family=AF_INET)]
        if present != [outer_address(index)]:
            netlink.flush_addr(index=link, family=AF_INET)
            address = outer_address(index)
            netlink.addr("add", index=link, address=address, prefixlen=PREFIX_LENGTH)
        netlink.link("set", index=link, state="up")


def _plug_inside(namespace: Path, index: int) -> bool:
    """Set the inner end up; False when there is none.

    With ip(8), because pyroute2 forks this process to open a socket in another namespace.
    """
    enter = ["nsenter", f"--net={namespace}", "ip"]
    shown = subprocess.run(
        [*enter, "-j", "-4", "addr"], capture_output=True, check=True, timeout=SECONDS
    )
    links = {link["ifname"]: link for link in json.loads(shown.stdout)}
    seen = links.get(INNER, {}).get("addr_info", [])
    if [entry["local"] for entry in seen] == [edge_address(index)]:
        return True
    batch = (
        f"link set {INNER} up\naddr flush dev {INNER}\n"
        f"addr add {edge_address(index)}/{PREFIX_LENGTH} dev {INNER}\n"
        f"link set lo up\nroute replace default via {outer_address(index)}\n"
    )
    done = subprocess.run(
        [*enter, "-batch", "-"],
        input=batch.encode(),
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    return done.returncode == 0
