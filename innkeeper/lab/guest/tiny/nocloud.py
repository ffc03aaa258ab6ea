# ruff: noqa: INP001 - a program for the guest, no module of ours
"""Cloud-init's NoCloud data source for the tiny guest, as far as Innkeeper's seeds use it.

`nocloud.py local SEED` runs before SSH starts: host name, network, users, keys, files, bootcmd
(which cloud-init would run at every boot, this at the first one of an instance).
`nocloud.py final SEED` runs after: commands. Unknown keys are ignored, as are packages.
It runs in the guest, alone: only Python's own modules and PyYAML.
"""

import base64
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/usr/lib/python3/dist-packages")  # python -S leaves it out

import yaml

STATE = Path("/var/lib/cloud")
DROPBEAR = Path("/etc/dropbear")
SHADOW = Path("/etc/shadow")
PASSWORD_LOGINS = DROPBEAR / "passwords"
RESULT = Path("/run/cloud-init/result.json")
DEFAULT_USER = "debian"
HOST_KEY_KINDS = ("ed25519", "rsa", "ecdsa")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Config = dict[str, Any]


def read(path: Path) -> str:
    """Return a file's text, or nothing when it is absent."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def write(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write text or bytes, with the mode from the start; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(raw)
    path.chmod(mode)


def parsed(text: str) -> Config:
    """Return a YAML mapping, or an empty one."""
    return yaml.load(text, LOADER) or {}  # noqa: S506 - a safe loader, in C where there is one


def cloud_config(seed: Path) -> Config:
    """Return the user-data as a mapping; a script is an empty one."""
    text = read(seed / "user-data")
    return parsed(text) if text.startswith("#cloud-config") else {}


def local(seed: Path) -> None:
    """Make true what must be before somebody logs in."""
    meta, config = parsed(read(seed / "meta-data")), cloud_config(seed)
    set_hostname(str(config.get("hostname") or meta.get("local-hostname") or "localhost"))
    set_network(parsed(read(seed / "network-config")))
    instance = str(meta.get("instance-id", ""))
    if instance != read(STATE / "instance-id"):
        first_boot(config)
        write(STATE / "instance-id", instance)
    # Last: without these copies, the next boot begins anew.
    write(STATE / "network-config", read(seed / "network-config"))
    write(STATE / "meta-data", read(seed / "meta-data"))
    os.sync()


def first_boot(config: Config) -> None:
    """Forget the former instance and become the new one."""
    (STATE / "finished").unlink(missing_ok=True)
    for command in config.get("bootcmd") or []:
        subprocess.call(command, shell=isinstance(command, str), stdin=subprocess.DEVNULL)
    set_host_keys(config.get("ssh_keys") or {})
    for user in users(config):
        set_user(user)
    set_passwords(config)
    for entry in config.get("write_files") or []:
        write_file(entry)


def set_hostname(name: str) -> None:
    """Keep the short name; the boot script sets it."""
    short = name.partition(".")[0]
    write(Path("/etc/hostname"), f"{short}\n")
    write(Path("/etc/hosts"), f"127.0.0.1 localhost\n127.0.1.1 {name} {short}\n")


def set_network(config: Config) -> None:
    """Keep static addresses of a version 2 network configuration for the boot script."""
    lines = []
    for card in ((config.get("network") or config).get("ethernets") or {}).values():
        gateway = card.get("gateway4") or "-"
        for route in card.get("routes") or []:
            if route.get("to") in ("default", "0.0.0.0/0"):
                gateway = route["via"]
        mac = str((card.get("match") or {}).get("macaddress") or "*").lower()
        names = (card.get("nameservers") or {}).get("addresses") or []
        own = [address for address in card.get("addresses") or [] if ":" not in address]
        lines += [" ".join([mac, own[0], gateway, *names]) + "\n"] if own else []
    write(Path("/etc/network.static"), "".join(lines))


def set_host_keys(keys: Config) -> None:
    """Put the given host keys where dropbear finds them; the boot script makes one otherwise."""
    for old in DROPBEAR.glob("*_host_key"):
        old.unlink()
    for kind in HOST_KEY_KINDS:
        if not keys.get(f"{kind}_private"):
            continue
        given, kept = Path("/run/host_key"), DROPBEAR / f"dropbear_{kind}_host_key"
        write(given, keys[f"{kind}_private"].strip() + "\n", 0o600)
        convert = ["dropbearconvert", "openssh", "dropbear", str(given), str(kept)]
        subprocess.run(convert, check=True, capture_output=True)
        given.unlink()
        public = str(keys.get(f"{kind}_public") or "").strip()
        write(Path(f"/etc/ssh/ssh_host_{kind}_key.pub"), f"{public}\n")


def users(config: Config) -> list[Config]:
    """Return the users to set up, the default user included when it is asked for."""
    keys = config.get("ssh_authorized_keys") or []
    default = {"name": DEFAULT_USER, "ssh_authorized_keys": keys}
    if config.get("password"):
        default["plain_text_passwd"] = config["password"]
    given = config.get("users", ["default"]) or []
    return [default if user == "default" else user for user in given]


def set_user(user: Config) -> None:
    """Make a user (an alias of root: the tiny guest has no sudo) and replace its keys."""
    name = user["name"]
    accounts = Path("/etc/passwd")
    table = read(accounts)
    if not any(line.startswith(f"{name}:") for line in table.splitlines()):
        write(accounts, f"{table}{name}:x:0:0::/home/{name}:/bin/sh\n")
        write(SHADOW, f"{read(SHADOW)}{name}:*:19000:0:99999:7:::\n", 0o600)
    home = Path("/root") if name == "root" else Path("/home", name)
    folder = home / ".ssh"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    lines = [f"{key.strip()}\n" for key in user.get("ssh_authorized_keys") or []]
    write(folder / "authorized_keys", "".join(lines), 0o600)
    digest = user.get("hashed_passwd") or user.get("passwd")
    if user.get("plain_text_passwd"):
        digest = hashed(user["plain_text_passwd"])
    if digest:
        set_password(name, digest)


def set_passwords(config: Config) -> None:
    """Set the passwords of `chpasswd` and allow them over SSH when asked to."""
    for user in (config.get("chpasswd") or {}).get("users") or []:
        given = user["password"]
        set_password(user["name"], given if user.get("type", "hash") == "hash" else hashed(given))
    PASSWORD_LOGINS.unlink(missing_ok=True)
    if config.get("ssh_pwauth") is True:
        PASSWORD_LOGINS.touch()


def hashed(plain: str) -> str:
    """Return the password as the shadow file keeps it."""
    import crypt  # noqa: PLC0415 - rarely needed, and every import costs under emulation

    return crypt.crypt(plain, crypt.mksalt(crypt.METHOD_SHA512))


def set_password(name: str, digest: str) -> None:
    """Put a hash into the shadow file."""
    lines = [line.split(":") for line in read(SHADOW).splitlines()]
    for fields in lines:
        if fields[0] == name:
            fields[1] = digest
    write(SHADOW, "".join(":".join(fields) + "\n" for fields in lines), 0o600)


def write_file(entry: Config) -> None:
    """Do one entry of `write_files`."""
    content, encoding = entry.get("content") or "", str(entry.get("encoding") or "")
    raw = content if isinstance(content, bytes) else content.encode()
    if "b64" in encoding or "base64" in encoding:
        raw = base64.b64decode(raw)
    if "gz" in encoding:
        raw = gzip.decompress(raw)
    path = Path(entry["path"])
    before = path.read_bytes() if entry.get("append") and path.exists() else b""
    write(path, before + raw, int(str(entry.get("permissions", "0644")), 8))


def final(seed: Path) -> None:
    """Run the commands, then say how it went, where cloud-init would have said it."""
    text = read(seed / "user-data")
    commands: list[str | list[str]] = cloud_config(seed).get("runcmd") or []
    if text.startswith("#!"):
        write(Path("/run/user-data"), text, 0o700)
        commands = [["/run/user-data"]]
    errors = []
    for number, command in enumerate(commands):
        # By cloud-init's definition a string is a shell's and a list is a program's.
        shell = isinstance(command, str)
        code = subprocess.call(command, shell=shell, stdin=subprocess.DEVNULL)
        if code != 0:
            errors.append(f"runcmd {number} ended with code {code}")
    result = {"v1": {"datasource": "DataSourceNoCloud", "errors": errors}}
    fresh = RESULT.with_suffix(".new")
    write(fresh, json.dumps(result))
    fresh.rename(RESULT)


if __name__ == "__main__":
    {"local": local, "final": final}[sys.argv[1]](Path(sys.argv[2]))
