"""`innkeeper server resources`: the whole wanted state of a server's resources."""

from enum import StrEnum
from typing import Annotated

import typer

from innkeeper.cli import foresight, lookup, tuning
from innkeeper.cli import output as out
from innkeeper.cli.client import Json, connect
from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.options import Output, Project, ServerName
from innkeeper.cli.output import Format


class Removal(StrEnum):
    """What becomes of data disks that are left out."""

    NO = "no"
    KEEP = "keep"
    DELETE = "delete"


@tuning.tunable
def resources(
    name: ServerName,
    *,
    vcpus: Annotated[int, typer.Option(min=1, max=32)],
    memory: Annotated[int, typer.Option(min=64, max=65536, help="MiB.")],
    disk: Annotated[int, typer.Option(min=1, help="Root disk in GiB; it only grows.")],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=GIB", help="A data disk that it is to have, repeatable."),
    ] = None,
    remove_disks: Annotated[
        Removal | None, typer.Option(help="What becomes of data disks that are not named.")
    ] = None,
    allow_power_cycle: Annotated[
        bool, typer.Option("--allow-power-cycle", help="Off and on, where it cannot be done live.")
    ] = False,
    defer: Annotated[bool, typer.Option("--defer", help="What needs that waits for it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plans, do nothing.")] = False,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Have a server get all that is named, as operations one after another; or none if it has."""
    body: Json = {"vcpus": vcpus, "memory_mib": memory, "disk_gib": disk}
    body |= {"allow_power_cycle": allow_power_cycle, "defer": defer} | tuning.asked()
    if data is not None or remove_disks is not None:
        body |= {"disks": [_disk(text) for text in data or []]}
        body |= {"remove_disks": remove_disks or Removal.NO}
    with connect() as client:
        server = lookup.server(client, name, project)
        path = f"/servers/{server['id']}/resources"
        found = client.put(path, body, dry_run=dry_run or None)
    if output is Format.JSON:
        out.emit_json(found)
    elif dry_run:
        foresight.show(found["plans"], output, several=True)
        if not found["plans"]:
            typer.echo(f"{name} has all of it")
    elif not found["changed"]:
        typer.echo(f"{name} has all of it: nothing to do")
    elif found["operation"].get("deferred"):
        typer.echo(f"{name}: the resize waits for a power cycle; all else it has")
        out.say(f"  see for what: innkeeper server show {name}")
    else:
        typer.echo(f"{name}: {found['operation']['verb']} accepted, the others follow it")
        out.say("  follow them with: innkeeper operation list")


def _disk(text: str) -> Json:
    name, equals, size = text.partition("=")
    if not (name and equals and size.isascii() and size.isdigit()):
        raise UsageFailure("No data disk", f"'{text}' is none: write it like data=20 (GiB).")
    return {"name": name, "size_gib": int(size)}
