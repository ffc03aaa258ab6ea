"""Where a host is: libvirt URI, command channel, edge address; checked before anything connects.

libvirt URIs may carry options that run programs on this machine (`command=`, `netcat=`:
https://libvirt.org/uri.html), so only those options pass that merely point to a socket or key.
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from innkeeper.errors import InvalidRequest

_SCHEMES = frozenset(
    {"qemu", "qemu+unix", "qemu+ssh", "qemu+libssh2", "qemu+libssh", "qemu+tls", "qemu+tcp"}
    | {"test", "test+unix"}
)
_OPTIONS = frozenset({"socket", "keyfile", "known_hosts", "pkipath", "mode", "no_tty"})
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_PLAIN = re.compile(r"[\x21-\x7e]{1,512}")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_.+-]+)+")  # any folder but . and ..
_CHANNEL = re.compile(r"local:|lab://[A-Za-z0-9._-]{1,63}|simulated:[A-Za-z0-9._-]{1,63}")


@dataclass(frozen=True)
class Place:
    """How to reach a host; `edge_address` is None when it is this machine's own."""

    uri: str
    channel: str
    edge_address: str | None
    pool_path: str

    @property
    def simulated(self) -> bool:
        """Tell whether libvirt's test driver plays the host."""
        return self.uri.startswith("test")


def resolve(
    name: str, uri: str, channel: str | None, edge_address: str | None, pool_path: str
) -> Place:
    """Return the place with what was left out filled in from the URI.

    Raises:
        InvalidRequest: a part is malformed, or cannot be concluded from the URI.
    """
    parts = _check_uri(uri)
    simulated = parts.scheme.startswith("test")
    if edge_address is None and simulated:
        edge_address = "127.0.0.1"
    elif edge_address is None and parts.hostname:
        edge_address = parts.hostname
    if edge_address is not None and not _HOST.fullmatch(edge_address):
        raise InvalidRequest("The edge address is a host name or an IP address.")
    if not _PATH.fullmatch(pool_path) or len(pool_path) > 512:  # noqa: PLR2004 - the column
        raise InvalidRequest(
            "The pool path is absolute and made of letters, digits and '_', '.', '+', '-'."
        )
    return Place(uri, channel_for(name, parts, channel), edge_address, pool_path)


def channel_for(name: str, parts: SplitResult, channel: str | None) -> str:
    """Return the given channel once checked, else the one that follows from the URI.

    Raises:
        InvalidRequest: it is malformed, or none follows.
    """
    if channel is not None:
        _check_channel(channel)
        return channel
    if parts.scheme.startswith("test"):
        return f"simulated:{name}"
    if parts.scheme.endswith(("ssh", "ssh2")) and parts.hostname:
        user = f"{quote(parts.username)}@" if parts.username else ""
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"ssh://{user}{host}" + (f":{parts.port}" if parts.port else "")
    if parts.scheme in {"qemu", "qemu+unix"} and not parts.hostname and not parts.query:
        return "local:"
    raise InvalidRequest(
        "How to run commands on this host does not follow from its URI: give its channel, "
        "for example ssh://root@host."
    )


def _check_uri(uri: str) -> SplitResult:
    if not _PLAIN.fullmatch(uri):
        raise InvalidRequest("A libvirt URI has at most 512 printable ASCII characters.")
    try:
        parts = urlsplit(uri)
        _port = parts.port
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise InvalidRequest(f"'{uri}' is no URI: {error}.") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidRequest(
            f"'{uri}' is no libvirt URI that Innkeeper manages: use qemu:///system, "
            "qemu+ssh://user@host/system or, simulated, test:///default."
        )
    if parts.password is not None or parts.fragment:
        raise InvalidRequest("A libvirt URI carries no password and no fragment: use an SSH key.")
    if foreign := sorted({key for key, _ in options} - _OPTIONS):
        raise InvalidRequest(f"The option '{foreign[0]}' is not allowed in a libvirt URI.")
    _check_authority(parts)
    if not parts.scheme.startswith("test") and parts.path not in {"/system", "/session"}:
        raise InvalidRequest("A QEMU URI ends in /system, for example qemu:///system.")
    if parts.scheme.startswith("test") and len(parts.path) < 2:  # noqa: PLR2004 - more than "/"
        raise InvalidRequest("A simulated host's URI is test:///default or names a file.")
    return parts


def _check_channel(channel: str) -> None:
    if _CHANNEL.fullmatch(channel):
        return
    try:
        parts = urlsplit(channel)
        _port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"'{channel}' is no host channel: {error}.") from error
    bare = not (parts.path or parts.query or parts.fragment or parts.password)
    if parts.scheme != "ssh" or not parts.hostname or not bare or not _PLAIN.fullmatch(channel):
        raise InvalidRequest(
            "A host channel is local:, ssh://user@host:port, lab://NAME or simulated:NAME."
        )
    _check_authority(parts)


def _check_authority(parts: SplitResult) -> None:
    if parts.hostname and not _HOST.fullmatch(parts.hostname):
        raise InvalidRequest("The host name in the address has other characters than names have.")
    if parts.username is not None and not _USER.fullmatch(parts.username):
        raise InvalidRequest("The user name in the address has other characters than names have.")
