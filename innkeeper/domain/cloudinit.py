"""NoCloud documents: what a guest is told at its first boot.

Formats: cloud-init's NoCloud datasource, cloud-config modules and network-config version 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

import yaml

from innkeeper.domain import cloudconfig

SCRIPT_PATH = "/var/lib/innkeeper/user-script"
_OURS_ONLY = (
    "ssh_keys",
    "ssh_deletekeys",
    "hostname",
    "preserve_hostname",
    "prefer_fqdn_over_hostname",
)


_RENEWAL = """\
mark=/var/lib/innkeeper/instance
[ "$(cat $mark 2>/dev/null)" = "$1" ] && exit 0
echo "$2" >/etc/machine-id.new && chmod 444 /etc/machine-id.new && \
  mv -f /etc/machine-id.new /etc/machine-id
[ ! -f /var/lib/dbus/machine-id ] || ln -sf /etc/machine-id /var/lib/dbus/machine-id
rm -f /var/lib/dhcp/*.lease* /var/lib/systemd/random-seed
[ -z "$3" ] || rm -f "$3"
mkdir -p ${mark%/*} && echo "$1" >$mark
"""
"""What a clone does before its network starts, once: bootcmd itself is run at every boot.

Hostname, SSH host keys and addresses are cloud-init's own for a new instance.
"""


@dataclass(frozen=True)
class Renewal:
    """What a disk that was another server's has to forget."""

    machine_id: str
    forget_keys: bool = False


@dataclass(frozen=True)
class FurtherCard:
    """A card beside the primary one; without an address DHCP tells it."""

    name: str
    mac: str
    address: str | None = None
    gateway: str | None = None
    dns: Sequence[str] = ()


@dataclass(frozen=True)
class Identity:
    """Everything that makes a guest this guest."""

    instance_id: str
    hostname: str
    login_user: str
    ssh_keys: Sequence[str]
    host_key_private: str = field(repr=False)
    host_key_public: str
    packages: Sequence[str] = ()
    runcmd: Sequence[Any] = ()
    user_data: str | None = field(default=None, repr=False)
    root_password_hash: str | None = field(default=None, repr=False)
    mac: str | None = None
    static_address: str | None = None
    cidr: str | None = None
    renewal: Renewal | None = None
    cards: Sequence[FurtherCard] = ()


def _ours(identity: Identity) -> dict[str, Any]:
    config: dict[str, Any] = {
        "hostname": identity.hostname,
        "preserve_hostname": False,
        "manage_etc_hosts": True,
        "ssh_pwauth": False,
        "disable_root": True,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": identity.host_key_private,
            "ed25519_public": identity.host_key_public,
        },
        "users": [
            {
                "name": identity.login_user,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/bash",
                "lock_passwd": True,
                "ssh_authorized_keys": list(identity.ssh_keys),
            }
        ],
        "runcmd": list(identity.runcmd),
    }
    if identity.renewal:
        keys = f"/home/{identity.login_user}/.ssh/authorized_keys"
        forgotten = keys if identity.renewal.forget_keys else ""
        words = [identity.instance_id, identity.renewal.machine_id, forgotten]
        config["bootcmd"] = [["sh", "-c", _RENEWAL, "innkeeper", *words]]
    if identity.packages:
        config["package_update"] = True
        config["packages"] = list(identity.packages)
    if identity.root_password_hash:
        config["chpasswd"] = {
            "expire": False,
            "users": [{"name": "root", "password": identity.root_password_hash, "type": "hash"}],
        }
    return config


def merge(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `theirs` over `ours`: mappings merge, lists append, anything else is replaced.

    cloud-init's own merge would be `list(append)+dict(recurse_dict)+str()`.
    """
    merged = dict(ours)
    for key, value in theirs.items():
        mine = merged.get(key)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(mine, value)
        elif isinstance(mine, list) and isinstance(value, list):
            merged[key] = [*mine, *value]
        else:
            merged[key] = value
    return merged


def user_data(identity: Identity) -> str:
    """Return the cloud-config: ours, with the user's merged over it.

    The host key, its protection and the hostname stay ours: the first login is verified by them.
    A user's script runs at the end of the first boot.
    """
    config = _ours(identity)
    text = identity.user_data or ""
    if text.startswith("#!"):
        script = {"path": SCRIPT_PATH, "permissions": "0700", "content": text}
        config = merge(config, {"write_files": [script], "runcmd": [[SCRIPT_PATH]]})
    elif text:
        theirs = cloudconfig.parse(text)
        config = merge(config, {k: v for k, v in theirs.items() if k not in _OURS_ONLY})
    # Plain ASCII: PyYAML would write U+0085 as it is, and read it back as a line feed.
    return "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False)


def meta_data(identity: Identity) -> str:
    """Return the NoCloud meta-data.

    With `dsmode: local` bootcmd is run before the network starts: DHCP client ids are made from the
    machine-id.
    """
    said = {"instance-id": identity.instance_id, "local-hostname": identity.hostname}
    if identity.renewal:
        said["dsmode"] = "local"
    return yaml.safe_dump(said, sort_keys=False)


def network_config(identity: Identity) -> str | None:
    """Return a network-config with fixed addresses and further cards, or None without any.

    Of a further card's DHCP a guest takes the address, not the way out: that is the primary's.
    """
    ethernets: dict[str, Any] = {}
    if identity.static_address and identity.cidr:
        network = IPv4Network(identity.cidr)
        gateway = str(network[1])
        address = f"{identity.static_address}/{network.prefixlen}"
        ethernets["primary"] = _fixed(str(identity.mac), address, gateway, [gateway])
    elif identity.cards:
        ethernets["primary"] = {"match": {"macaddress": identity.mac}, "dhcp4": True}
    for card in identity.cards:
        ethernets[card.name] = _further(card)
    if not ethernets:
        return None
    return yaml.safe_dump({"version": 2, "ethernets": ethernets}, sort_keys=False)


def _fixed(mac: str, address: str, gateway: str | None, dns: Sequence[str]) -> dict[str, Any]:
    card: dict[str, Any] = {"match": {"macaddress": mac}, "addresses": [address]}
    if gateway:
        card["routes"] = [{"to": "0.0.0.0/0", "via": gateway}]  # cloud-init 22.4: no "default"
    if dns:
        card["nameservers"] = {"addresses": list(dns)}
    return card


def _further(card: FurtherCard) -> dict[str, Any]:
    if card.address:
        return _fixed(card.mac, card.address, card.gateway, card.dns)
    only = {"use-routes": False, "use-dns": False}
    return {"match": {"macaddress": card.mac}, "dhcp4": True, "dhcp4-overrides": only}
