"""Log in to servers with ssh, and only to the right ones: the host key is known before."""

import os
import re
import shlex
from pathlib import Path

from innkeeper.cli.client import Json
from innkeeper.cli.failures import Refused, UsageFailure
from innkeeper.cli.lookup import parsed
from innkeeper.services.views import ServerView
from innkeeper.settings import settings

DEFAULT_IDENTITIES = ("id_ed25519", "id_ed25519_sk", "id_ecdsa", "id_ecdsa_sk", "id_rsa")
_HOST_KEY = re.compile(r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}(?: [^\x00-\x1f\x7f]*)?\Z")
_PLAIN_WORD = re.compile(r"^[A-Za-z0-9_.:%][A-Za-z0-9_.:%-]*\Z")


def parsed_server(answer: Json) -> ServerView:
    """Return the API's answer as a server."""
    return parsed(ServerView, answer)


def command_line(server: ServerView) -> str:
    """Return the short ssh line of a server, for people to copy."""
    return shlex.join(
        ["ssh", "-p", str(server.ssh_port), f"{server.ssh_user}@{server.edge_address}"]
    )


def ssh_argv(
    server: ServerView,
    command: list[str],
    *,
    identity: Path | None = None,
    user: str | None = None,
) -> list[str]:
    """Return the ssh command with strict host key checking; writes the known_hosts file.

    `identity` None means: the user's own default keys and agent, then Innkeeper's key when this
    user may read it (naming a key makes ssh forget its defaults, so they are named too).

    Raises:
        Refused: the server has no forward now, or its data cannot be trusted on a command line.
        UsageFailure: the identity file cannot be read.
    """
    if server.ssh_port is None or not server.edge_address:
        raise Refused(
            "No way in",
            f"{server.name} is {server.status} and has no forward"
            + (f": {server.fault}" if server.fault else "."),
        )
    login = user or server.ssh_user
    for word in (login, server.edge_address):
        if not _PLAIN_WORD.match(word):
            raise Refused("Unsafe login data", f"'{word}' is no user or address for ssh.")
    options = [
        f"UserKnownHostsFile={known_hosts(server)}",
        "GlobalKnownHostsFile=none",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
    ]
    argv = ["ssh", "-p", str(server.ssh_port)]
    for option in options:
        argv += ["-o", option]
    argv += _identity_options(identity)
    return [*argv, "-l", login, "--", server.edge_address, *command]


def known_hosts(server: ServerView) -> Path:
    """Write the file that holds this server's host key and nothing else; return its path.

    Raises:
        Refused: the server has no host key, or not one key.
    """
    if not _HOST_KEY.match(server.host_key):
        raise Refused("No host key", f"{server.name} has no host key that ssh could check.")
    folder = settings().cache / "known_hosts"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / str(server.id)
    fresh = path.with_suffix(f".{os.getpid()}")
    key = " ".join(server.host_key.split()[:2])
    fresh.write_text(f"[{server.edge_address}]:{server.ssh_port} {key}\n")
    fresh.replace(path)
    return path


def _identity_options(identity: Path | None) -> list[str]:
    if identity is not None:
        if not os.access(identity, os.R_OK):
            raise UsageFailure("No such identity", f"{identity} cannot be read.")
        return ["-i", str(identity), "-o", "IdentitiesOnly=yes"]
    if not os.access(settings().identity_file, os.R_OK):
        return []
    own = [Path.home() / ".ssh" / name for name in DEFAULT_IDENTITIES]
    return [
        word
        for path in (*own, settings().identity_file)
        if os.access(path, os.R_OK)
        for word in ("-i", str(path))
    ]
