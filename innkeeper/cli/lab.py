"""`innkeeper lab …`: disposable libvirt hosts on this machine."""

from dataclasses import asdict
from typing import Annotated

import typer

from innkeeper.cli.client import connect
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format, emit_json, emit_table
from innkeeper.cli.server import ssh
from innkeeper.lab.fleet import Lab

app = typer.Typer(no_args_is_help=True, help="Disposable libvirt hosts on this machine.")


@app.command()
def up(
    hosts: Annotated[int, typer.Option(min=1, max=99, help="How many hosts.")] = 2,
) -> None:
    """Bring the hosts up, or heal them; fast when they are."""
    for host in Lab().up(hosts):
        typer.echo(f"{host.name}  {host.uri}  edge {host.edge_address}")


@app.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the hosts' folders and disks, too.")
    ] = False,
) -> None:
    """Take all hosts down, their guests included."""
    Lab().down(purge=purge)


@app.command()
def status(output: Output = Format.TABLE) -> None:
    """Show the hosts and whether their libvirtd answers."""
    lab = Lab()
    states = {host: "up" if lab.running(host.name) else "down" for host in lab.hosts()}
    if output is Format.JSON:
        emit_json([asdict(host) | {"state": state} for host, state in states.items()])
        return
    rows = [(host.name, state, host.edge_address, host.uri) for host, state in states.items()]
    emit_table(("HOST", "STATE", "EDGE ADDRESS", "LIBVIRT URI"), rows)


@app.command()
def restart(host: Annotated[str, typer.Argument(help="Name of the host, e.g. lab1.")]) -> None:
    """Restart a host's libvirtd; its guests keep running."""
    Lab().restart(host)


@app.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def execute(
    host: Annotated[str, typer.Argument(help="Name of the host, e.g. lab1.")],
    argv: Annotated[list[str], typer.Argument(help="Program and arguments, after --.")],
) -> None:
    """Run a program inside a host."""
    program = argv[1:] if argv[0] == "--" else argv  # click hands the separator on
    raise typer.Exit(Lab().exec(host, program))


app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    ssh
)


@app.command()
def audit(output: Output = Format.TABLE) -> None:
    """Hold every host against the database; nothing to print and exit code 0 when they agree."""
    with connect() as client:
        found = list(client.items("/audit"))
    if output is Format.JSON:
        emit_json(found)
    elif found:
        rows = [(f["host"], f["kind"], f["name"], f["problem"]) for f in found]
        emit_table(("HOST", "KIND", "NAME", "PROBLEM"), rows)
    else:
        typer.echo("Hosts and database agree.")
    if found:
        raise typer.Exit(1)
