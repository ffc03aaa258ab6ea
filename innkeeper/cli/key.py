"""`innkeeper key …`."""

from enum import StrEnum
from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.failures import Missing, Refused
from innkeeper.cli.options import Output, Project, Yes
from innkeeper.cli.output import Format
from innkeeper.services.views import ApiKeyView

app = typer.Typer(no_args_is_help=True, help="API keys: who may do what.")


class Role(StrEnum):
    """What a key may do: everything, operate all projects, use one project."""

    ADMIN = "admin"
    OPERATOR = "operator"
    USER = "user"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key, or what for.")],
    role: Annotated[Role, typer.Option(help="What it may do.")] = Role.USER,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a key and print it. It is shown once: only its hash is kept."""
    with connect() as client:
        body = {"name": name, "role": role.value}
        if project is not None:
            body["project"] = project
        found = client.post("/keys", body)
    if output is Format.JSON:
        out.emit_json(found)
        return
    out.say(f"The key of {name}, shown once; use it as INNKEEPER_API_KEY:")
    typer.echo(found["key"])


@app.command("list")
def list_keys(output: Output = Format.TABLE) -> None:
    """List keys, without the keys themselves."""
    with connect() as client:
        found = list(client.items("/keys"))
    if output is Format.JSON:
        out.emit_json(found)
        return
    keys = [lookup.parsed(ApiKeyView, entry) for entry in found]
    out.emit_table(
        ("NAME", "ROLE", "PROJECT", "STATE", "LAST USED", "ID"),
        [
            (
                key.name,
                key.role,
                key.project_id or "all",
                "revoked" if key.revoked_at else "valid",
                out.ago(key.last_used_at) or "never",
                key.id,
            )
            for key in keys
        ],
    )


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the key.")], yes: Yes = False
) -> None:
    """Make a key invalid from now on."""
    out.confirm(f"Revoke the key {name}?", yes=yes)
    with connect() as client:
        client.delete(f"/keys/{_valid(client, name)['id']}")
    typer.echo(f"{name} is revoked")


def _valid(client: Client, name_or_id: str) -> Json:
    """Return the key that still works: names may be used again after a revocation."""
    matches = [
        key
        for key in client.items("/keys")
        if name_or_id in {key["name"], key["id"]} and key["revoked_at"] is None
    ]
    if not matches:
        raise Missing("Not found", f"No key '{name_or_id}' works: see `innkeeper key list`.")
    if len(matches) > 1:
        raise Refused("Ambiguous name", f"Several keys are called '{name_or_id}': name one by id.")
    return matches[0]
