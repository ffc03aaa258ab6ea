"""`innkeeper role …`."""

import json
from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import connect
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format

app = typer.Typer(no_args_is_help=True, help="Ansible roles that servers may ask for.")


@app.command("list")
def list_roles(output: Output = Format.TABLE) -> None:
    """List the roles that `--role` accepts."""
    with connect() as client:
        found = list(client.items("/roles"))
    if output is Format.JSON:
        out.emit_json(found)
        return
    out.emit_table(
        ("NAME", "DESCRIPTION"),
        [(role["name"], role.get("description", "")) for role in found],
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the role.")], output: Output = Format.TABLE
) -> None:
    """Show a role and the variables that it takes."""
    with connect() as client:
        found = lookup.named(client, "role", name)
    if output is Format.JSON:
        out.emit_json(found)
        return
    typer.echo(out.plain(f"{found['name']}: {found['description']}"))
    if not found["options"]:
        return
    out.emit_table(
        ("VARIABLE", "TYPE", "DEFAULT", "DESCRIPTION"),
        [
            (
                option["name"],
                option["type"],
                "required" if option["required"] else json.dumps(option.get("default")),
                option["description"],
            )
            for option in found["options"]
        ],
    )
