"""Texts of one line, public SSH keys among them."""

import base64
import binascii
import re

_PRINTABLE = re.compile(r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]*\Z")
_KEY_FIELDS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
"""Key types and how many fields their blobs have, the type's name included."""


def check_line(value: str) -> str:
    """Return the text, or raise ValueError when it has control characters."""
    if not _PRINTABLE.match(value):
        raise ValueError("control characters are not allowed here")
    return value


def check_ssh_key(value: str) -> str:
    """Return the key on one line, or raise ValueError saying what is wrong with it.

    The blob has to decode, name its own type and be complete: it is a row of length-prefixed
    fields (RFC 4253, section 6.6).
    """
    text = value.strip(" \t\r\n")
    if not _PRINTABLE.match(text):
        raise ValueError("an SSH public key is one line without control characters")
    parts = re.split(" +", text, maxsplit=2)
    if len(parts) < 2 or parts[0] not in _KEY_FIELDS:  # noqa: PLR2004 - type and blob
        raise ValueError("an SSH public key looks like 'ssh-ed25519 AAAA… comment'")
    try:
        blob = base64.b64decode(parts[1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the SSH public key is not valid base64") from error
    fields = _key_fields(blob)
    if fields[:1] != [parts[0].encode()] or len(fields) != _KEY_FIELDS[parts[0]]:
        raise ValueError("the SSH public key's content does not match its type")
    return text


def _key_fields(blob: bytes) -> list[bytes]:
    """Return the length-prefixed fields of a key, or nothing when one of them is cut off."""
    fields = []
    while blob:
        end = 4 + int.from_bytes(blob[:4], "big")
        if len(blob) < end or end == 4:  # noqa: PLR2004 - a length without content
            return []
        fields.append(blob[4:end])
        blob = blob[end:]
    return fields
