"""`innkeeper server clone`, also `innkeeper clone`."""

from typing import Annotated

import typer

from innkeeper.cli import accepted, foresight, lookup, request, tuning
from innkeeper.cli.client import Json, connect
from innkeeper.cli.options import Output, Project, Repeatable, ServerName, Wait
from innkeeper.cli.output import Format
from innkeeper.cli.snapshot import quiesce_word


@foresight.plannable
@tuning.tunable
def clone(
    server: ServerName,
    name: Annotated[str, typer.Argument(help="Host name of the new server.")],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Copy the disk instead of sharing the source's.")
    ] = False,
    snapshot: Annotated[
        str | None, typer.Option(help="Clone this snapshot; else the disk as it is now.")
    ] = None,
    quiesce: Annotated[
        str, typer.Option(help="Freeze file systems by the guest agent: auto, required or off.")
    ] = "auto",
    plan: Annotated[str | None, typer.Option(help="Size, when other than the source's.")] = None,
    disk: Annotated[
        int | None, typer.Option(min=1, help="Root disk in GiB; it may only grow.")
    ] = None,
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|-", help="Public key that may log in, instead of the source's."),
    ] = None,
    user_data: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="cloud-config or script, run once.")
    ] = None,
    root_password: Annotated[
        bool,
        typer.Option("--root-password", help="Make one; `innkeeper server password` shows it."),
    ] = False,
    description: Annotated[str, typer.Option(help="Free text, shown in lists.")] = "",
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a new server from a server's disk; running or stopped, that goes on as it is."""
    body: Json = {
        "name": name,
        "mode": "full" if full else "linked",
        "quiesce": quiesce_word(quiesce),
        "root_password": root_password,
        "description": description,
        **tuning.asked(),
    }
    chosen: Json = {"snapshot": snapshot, "plan": plan, "disk_gib": disk}
    if ssh_key:
        chosen["ssh_keys"] = request.ssh_keys(ssh_key)
    if user_data is not None:
        chosen["user_data"] = request.text_of(user_data, "user-data")
    body |= {key: value for key, value in chosen.items() if value is not None}
    with connect() as client:
        source = lookup.server(client, server, project)
        path = f"/servers/{source['id']}/clones"
        operation = client.post(path, body, idempotency_key=idempotency_key, **foresight.query())
        accepted.conclude(client, [operation], wait=wait, fmt=output)
