"""Which API and which key: the environment first, then this machine's stack."""

import os
import re

import httpx

from innkeeper.cli.failures import Unauthorised, UsageFailure
from innkeeper.settings import settings

_HOST = re.compile(r"^[\w.:-]+\Z")


def api_url() -> str:
    """Return the address of the API, without a path.

    Raises:
        UsageFailure: it is not an http or https address.
    """
    address = settings().api_url
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not _HOST.match(parsed.host):
        raise UsageFailure(
            "INNKEEPER_API_URL is not an address",
            f"'{address}' should look like http://127.0.0.1:8480.",
        )
    return address.rstrip("/").removesuffix("/api/v1")


def api_key() -> str | None:
    """Return the key of the environment, else the admin's key of this machine, else None.

    Raises:
        Unauthorised: the key holds characters that no key has.
    """
    key = os.environ.get("INNKEEPER_API_KEY", "").strip()
    if not key:
        try:
            key = (settings().home / "admin.key").read_text().strip()
        except OSError:
            return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthorised(
            "The API key is damaged", "A key is one word that starts with ik_: copy it again."
        )
    return key or None
