"""From what people type to what the API knows: names, ids, typed answers."""

from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from innkeeper.cli.client import Client, Json
from innkeeper.cli.failures import Missing, Refused, Unreachable

T = TypeVar("T", bound=BaseModel)


def parsed(kind: type[T], answer: Any) -> T:
    """Return an answer of the API as its read model.

    Raises:
        Unreachable: the answer has another shape, so the API has another version.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Unreachable(
            "The API speaks another version",
            f"Its answer does not fit this command line ({where}: {first['msg']}). "
            "Install the same version of both.",
        ) from error


def server(client: Client, name_or_id: str, project: str | None = None) -> Json:
    """Return the server with this id, or the one that has this name now.

    Raises:
        Missing: there is none in the projects that the key may see.
        Refused: several projects have one of this name.
    """
    if (identifier := as_uuid(name_or_id)) is not None:
        found: Json = client.get(f"/servers/{identifier}")
        return found
    matches = [
        entry
        for entry in client.items("/servers", name=name_or_id, project=project)
        if entry["name"] == name_or_id
    ]
    if not matches:
        raise Missing(
            "Not found", f"There is no server '{name_or_id}': see `innkeeper server list`."
        )
    if len(matches) > 1:
        projects = ", ".join(sorted(str(entry["project"]) for entry in matches))
        raise Refused(
            "Ambiguous name",
            f"Several projects have a server '{name_or_id}' ({projects}): add --project.",
        )
    return matches[0]


def named(client: Client, noun: str, name_or_id: str) -> Json:
    """Return the host, image, plan, project or role of this name or id (`noun` in the singular).

    Raises:
        Missing: there is none.
    """
    identifier = as_uuid(name_or_id)
    for entry in client.items(f"/{noun}s"):
        if entry["name"] == name_or_id or (identifier and entry.get("id") == str(identifier)):
            return entry
    raise Missing("Not found", f"There is no {noun} '{name_or_id}': see `innkeeper {noun} list`.")


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that a text is, or None."""
    try:
        return UUID(text)
    except ValueError:
        return None
