"""`innkeeper role …`."""

import typer

from innkeeper.cli import output as out
from innkeeper.cli.client import connect
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format

app = typer.Typer(no_args_is_help=True, help="Ansible roles that servers may ask for.")


@app.callback()
def _noun() -> None:
    """Keep `list` a command of its own though it is the only one."""


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
