"""`innkeeper server resize`, `cancel-resize` and `set`."""

from typing import Annotated

import typer

from innkeeper.cli import foresight, lookup, tuning
from innkeeper.cli import output as out
from innkeeper.cli.acting import act
from innkeeper.cli.client import Json, connect
from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.options import Output, Project, Repeatable, ServerName, ServerNames, Wait
from innkeeper.cli.output import Format


@foresight.plannable
@tuning.tunable
def resize(
    names: ServerNames,
    *,
    plan: Annotated[str | None, typer.Option(help="Size: see `innkeeper plan list`.")] = None,
    vcpus: Annotated[int | None, typer.Option(min=1, max=32, help="Instead of a plan.")] = None,
    memory: Annotated[
        int | None, typer.Option(min=64, max=65536, help="MiB, instead of a plan.")
    ] = None,
    disk: Annotated[
        int | None, typer.Option(min=1, help="Root disk in GiB; it only grows.")
    ] = None,
    allow_power_cycle: Annotated[
        bool, typer.Option("--allow-power-cycle", help="Off and on, where it cannot be done live.")
    ] = False,
    defer: Annotated[
        bool,
        typer.Option(
            "--defer", help="If it cannot be done live: in the window, or at a start or reboot."
        ),
    ] = False,
    expand_offline: Annotated[
        bool,
        typer.Option("--expand-offline", help="The guest's file system grows at its next boot."),
    ] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give servers another size, while they run where that is possible."""
    size = {"plan": plan, "vcpus": vcpus, "memory_mib": memory, "disk_gib": disk}
    body: Json = {key: value for key, value in size.items() if value is not None}
    body |= tuning.asked()
    body |= {"allow_power_cycle": allow_power_cycle} | ({"defer": True} if defer else {})
    body |= {"expand": "offline" if expand_offline else "online"}
    act("resize", names, body, idempotency_key, project, wait=wait, output=output)


def cancel_resize(name: ServerName, project: Project = None, output: Output = Format.TABLE) -> None:
    """Cancel the resize of a server that waits for a power cycle."""
    with connect() as client:
        server = lookup.server(client, name, project)
        found = client.delete(f"/servers/{server['id']}/pending-resize")
    if output is Format.JSON:
        out.emit_json(found)
        return
    typer.echo(f"{found['name']}: no resize waits any more")


def change(
    name: ServerName,
    *,
    window: Annotated[
        str | None,
        typer.Option(
            help="When it may be interrupted, in UTC: 'Sun 02:00-04:00' or 'daily …'; '' never."
        ),
    ] = None,
    description: Annotated[str | None, typer.Option(help="Free text, shown in lists.")] = None,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Change what is said of a server; options that are left out change nothing."""
    body: Json = {} if window is None else {"maintenance_window": window or None}
    body |= {} if description is None else {"description": description}
    if not body:
        raise UsageFailure("Nothing to set", "Name an option, for example --window.")
    with connect() as client:
        server = lookup.server(client, name, project)
        found = client.patch(f"/servers/{server['id']}", body)
    if output is Format.JSON:
        out.emit_json(found)
        return
    typer.echo(f"{found['name']} is changed")
