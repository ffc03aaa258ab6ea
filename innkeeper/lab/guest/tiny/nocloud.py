"""Cloud-init's NoCloud data source for the tiny guest, as far as Innkeeper's seeds use it.

`nocloud.py local SEED` runs before SSH starts: host name, network, users, keys, files.
`nocloud.py final SEED` runs after: commands. Unknown keys are ignored, as are packages.
"""

import base64
import contextlib
import gzip
import json
import os
import subprocess
import sys

sys.path.insert(0, "/usr/lib/python3/dist-packages")

import yaml

STATE = "/var/lib/cloud"
DROPBEAR = "/etc/dropbear"
DEFAULT_USER = "debian"
HOST_KEYS = {"ed25519": "ed25519", "rsa": "rsa", "ecdsa": "ecdsa"}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path):
    """Return a file's text, or nothing when it is absent."""
    try:
        with open(path) as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def write(path, data, mode=0o644):
    """Write text or bytes, with the mode from the start; make the folder."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(raw)
    os.chmod(path, mode)


def parsed(path):
    """Return a YAML mapping, or an empty one."""
    return yaml.load(read(path), LOADER) or {}


def user_data(seed):
    """Return the cloud-config; a script is none."""
    text = read(seed + "/user-data")
    return (yaml.load(text, LOADER) or {}) if text.startswith("#cloud-config") else {}


def local(seed):
    """What must be true before somebody logs in."""
    meta, config = parsed(seed + "/meta-data"), user_data(seed)
    set_hostname(str(config.get("hostname") or meta.get("local-hostname") or "localhost"))
    set_network(parsed(seed + "/network-config"))
    instance = str(meta.get("instance-id", ""))
    if instance != read(STATE + "/instance-id"):
        first_boot(config)
        write(STATE + "/instance-id", instance)
    # Last: without this copy, the next boot begins anew.
    write(STATE + "/network-config", read(seed + "/network-config"))
    write(STATE + "/meta-data", read(seed + "/meta-data"))
    os.sync()


def first_boot(config):
    """Forget the former instance and become the new one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(STATE + "/finished")
    set_host_keys(config.get("ssh_keys") or {})
    for user in users(config):
        set_user(user)
    set_passwords(config)
    for entry in config.get("write_files") or []:
        write_file(entry)


def set_hostname(name):
    """Keep the short name; the boot script sets it."""
    short = name.partition(".")[0]
    write("/etc/hostname", short + "\n")
    write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 %s %s\n" % (name, short))


def set_network(config):
    """Keep static addresses of a version 2 network configuration where the boot script looks."""
    lines = []
    for card in ((config.get("network") or config).get("ethernets") or {}).values():
        gateway = card.get("gateway4") or "-"
        for route in card.get("routes") or []:
            if route.get("to") in ("default", "0.0.0.0/0"):
                gateway = route["via"]
        address = str((card.get("match") or {}).get("macaddress") or "*").lower()
        names = (card.get("nameservers") or {}).get("addresses") or []
        four = [a for a in card.get("addresses") or [] if ":" not in a]
        lines += [" ".join([address, four[0], gateway, *names])] if four else []
    write("/etc/network.static", "".join(line + "\n" for line in lines))


def set_host_keys(keys):
    """Put the given host keys where dropbear finds them; without any, the boot script makes one."""
    for name in os.listdir(DROPBEAR):
        if name.endswith("_host_key"):
            os.unlink(os.path.join(DROPBEAR, name))
    for kind, short in HOST_KEYS.items():
        private = keys.get(kind + "_private")
        if not private:
            continue
        given, kept = "/run/host_key", "%s/dropbear_%s_host_key" % (DROPBEAR, short)
        write(given, private.strip() + "\n", 0o600)
        subprocess.run(
            ["dropbearconvert", "openssh", "dropbear", given, kept], check=True, capture_output=True
        )
        os.unlink(given)
        if keys.get(kind + "_public"):
            write("/etc/ssh/ssh_host_%s_key.pub" % short, keys[kind + "_public"].strip() + "\n")


def users(config):
    """Return the users to set up, the default user included when it is asked for."""
    default = {"name": DEFAULT_USER, "ssh_authorized_keys": config.get("ssh_authorized_keys") or []}
    if config.get("password"):
        default["plain_text_passwd"] = config["password"]
    found = []
    for user in config.get("users", ["default"]) or []:
        if user == "default":
            found.append(default)
        elif isinstance(user, dict):
            found.append(user)
    return found


def set_user(user):
    """Make a user (an alias of root: the tiny guest has no sudo) and replace its keys."""
    name = user["name"]
    table = read("/etc/passwd")
    if not any(line.startswith(name + ":") for line in table.splitlines()):
        write("/etc/passwd", table + "%s:x:0:0::/home/%s:/bin/sh\n" % (name, name))
        write("/etc/shadow", read("/etc/shadow") + "%s:*:19000:0:99999:7:::\n" % name, 0o600)
    home = "/root" if name == "root" else "/home/" + name
    keys = user.get("ssh_authorized_keys") or []
    os.makedirs(home + "/.ssh", exist_ok=True)
    os.chmod(home, 0o755)
    os.chmod(home + "/.ssh", 0o700)
    write(home + "/.ssh/authorized_keys", "".join(k.strip() + "\n" for k in keys), 0o600)
    if user.get("hashed_passwd") or user.get("passwd"):
        set_password(name, user.get("hashed_passwd") or user["passwd"])
    elif user.get("plain_text_passwd"):
        set_password(name, hashed(user["plain_text_passwd"]))


def set_passwords(config):
    """Set the passwords of `chpasswd` and allow them over SSH when asked to."""
    for user in (config.get("chpasswd") or {}).get("users") or []:
        given = user["password"]
        set_password(user["name"], given if user.get("type", "hash") == "hash" else hashed(given))
    if config.get("ssh_pwauth") is True:
        write(DROPBEAR + "/passwords", "")
    elif os.path.exists(DROPBEAR + "/passwords"):
        os.unlink(DROPBEAR + "/passwords")


def hashed(plain):
    """Return the password as the shadow file keeps it."""
    import crypt

    return crypt.crypt(plain, crypt.mksalt(crypt.METHOD_SHA512))


def set_password(name, digest):
    """Put a hash into the shadow file."""
    lines = [line.split(":") for line in read("/etc/shadow").splitlines()]
    for fields in lines:
        if fields[0] == name:
            fields[1] = digest
    write("/etc/shadow", "".join(":".join(fields) + "\n" for fields in lines), 0o600)


def write_file(entry):
    """Do one entry of `write_files`."""
    content, encoding = entry.get("content") or "", str(entry.get("encoding") or "")
    raw = content if isinstance(content, bytes) else content.encode()
    if "b64" in encoding or "base64" in encoding:
        raw = base64.b64decode(raw)
    if "gz" in encoding:
        raw = gzip.decompress(raw)
    if entry.get("append"):
        raw = read(entry["path"]).encode() + raw
    write(entry["path"], raw, int(str(entry.get("permissions", "0644")), 8))


def final(seed):
    """Run the commands, then say how it went, where cloud-init would have said it."""
    text, errors = read(seed + "/user-data"), []
    commands = []
    if text.startswith("#!"):
        write("/run/user-data", text, 0o700)
        commands = [["/run/user-data"]]
    elif text.startswith("#cloud-config"):
        commands = user_data(seed).get("runcmd") or []
    for command in commands:
        # By cloud-init's definition a string is a shell's and a list is a program's.
        code = subprocess.call(command, shell=isinstance(command, str), stdin=subprocess.DEVNULL)
        if code != 0:
            errors.append("runcmd %d ended with code %d" % (commands.index(command), code))
    result = {"v1": {"datasource": "DataSourceNoCloud", "errors": errors}}
    write("/run/cloud-init/result.json.new", json.dumps(result))
    os.rename("/run/cloud-init/result.json.new", "/run/cloud-init/result.json")


if __name__ == "__main__":
    {"local": local, "final": final}[sys.argv[1]](sys.argv[2])
