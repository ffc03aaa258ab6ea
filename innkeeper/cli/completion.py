"""Names for the shell's completion, asked from the API; silent when it does not answer."""

import httpx

from innkeeper.errors import InnkeeperError

PATIENCE_SECONDS = 1.0
SUGGESTIONS = 50


def servers(incomplete: str) -> list[str]:
    """Return names of servers that begin with what was typed."""
    from innkeeper.cli.credentials import api_key, api_url  # noqa: PLC0415 - settings are slow

    try:
        answer = httpx.get(
            f"{api_url()}/api/v1/servers",
            params={"name": incomplete, "limit": SUGGESTIONS} if incomplete else {},
            headers={"Authorization": f"Bearer {api_key() or ''}"},
            timeout=PATIENCE_SECONDS,
        )
        names = [str(entry["name"]) for entry in answer.raise_for_status().json()["items"]]
    except (httpx.HTTPError, InnkeeperError, ValueError, KeyError, TypeError):
        return []
    return [name for name in names if name.startswith(incomplete)]
