"""`innkeeper disk …`."""

from typing import Annotated

import typer

from innkeeper.cli import foresight, lookup
from innkeeper.cli import output as out
from innkeeper.cli.acting import act_on
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.failures import Missing
from innkeeper.cli.options import Limit, Output, Project, Repeatable, ServerName, Wait, Yes
from innkeeper.cli.output import Format
from innkeeper.services.views import DiskView

app = typer.Typer(no_args_is_help=True, help="Data disks: attach, detach, grow, list, delete.")

DiskName = Annotated[str, typer.Argument(metavar="DISK", help="Name or id of the data disk.")]


@app.command()
@foresight.plannable
def attach(
    server: ServerName,
    *,
    name: Annotated[str, typer.Option(help="What to call it, or what the kept one is called.")],
    size: Annotated[
        int | None, typer.Option(min=1, max=2048, help="GiB of a new disk; without it a kept one.")
    ] = None,
    fmt: Annotated[
        str | None, typer.Option("--format", help="qcow2 (the usual one), raw or vmdk.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="writeback (the usual one), writethrough or none.")
    ] = None,
    discard: Annotated[
        bool | None,
        typer.Option("--discard/--no-discard", help="Give back to the host what is trimmed."),
    ] = None,
    read_only: Annotated[
        bool | None, typer.Option("--read-only/--writable", help="Whether the guest may write.")
    ] = None,
    iops: Annotated[
        int | None, typer.Option(min=1, help="Most requests a second, reads and writes.")
    ] = None,
    throughput: Annotated[
        int | None, typer.Option(min=1, help="Most MiB a second, reads and writes.")
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Whether it stays when its server is deleted."),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Pool of the host for a new one, if not the usual one.")
    ] = None,
    boot_order: Annotated[
        int | None,
        typer.Option(min=0, max=11, help="Boot from it: 1 first; 0: not, as usual."),
    ] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give a server a data disk, a new one or one that was kept, while it runs."""
    options = {
        "size_gib": size,
        "format": fmt,
        "cache": cache,
        "discard": discard,
        "read_only": read_only,
        "iops": iops,
        "throughput_mib": throughput,
        "delete_on_server_delete": None if keep is None else not keep,
        "pool": pool,
        "boot_order": boot_order,
    }
    body: Json = {"name": name}
    body |= {key: value for key, value in options.items() if value is not None}
    act_on("attach-disk", server, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def detach(
    server: ServerName,
    disk: DiskName,
    *,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it with what is on it, do not keep it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if the guest has it mounted.")
    ] = False,
    yes: Yes = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Take a data disk from a server, while it runs; it is kept, unless it is to be deleted."""
    if delete:
        out.confirm(f"Delete {disk} and all that is on it?", yes=yes or foresight.dry_run())
    body: Json = {"disk": disk, "keep": not delete, "force": force}
    act_on("detach-disk", server, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def grow(
    server: ServerName,
    disk: DiskName,
    *,
    size: Annotated[int, typer.Option(min=1, max=2048, help="GiB that it is to have.")],
    expand_offline: Annotated[
        bool, typer.Option("--expand-offline", help="Leave its file system as it is.")
    ] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give a server's data disk more room, and the file system on it, while it runs."""
    body: Json = {"disk": disk, "size_gib": size}
    body |= {"expand": "offline" if expand_offline else "online"}
    act_on("grow-disk", server, body, idempotency_key, project, wait=wait, output=output)


@app.command("list")
def list_disks(
    server: Annotated[
        str | None, typer.Argument(metavar="[SERVER]", help="Only this server's.")
    ] = None,
    *,
    limit: Limit = 200,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """List data disks, attached and kept, newest first."""
    with connect() as client:
        server_id = lookup.server(client, server, project)["id"] if server else None
        query = {"server_id": server_id, "project": project}
        found = list(client.items("/disks", limit=limit, **query))
    if output is Format.JSON:
        out.emit_json(found)
        return
    views = [lookup.parsed(DiskView, entry) for entry in found]
    out.emit_table(
        ("NAME", "PHASE", "SERVER", "HOST", "SIZE GIB", "FORMAT", "DEVICE", "AGE"),
        [
            (
                *(one.name, one.phase, one.server or "", one.host, one.size_gib, one.format),
                one.device if one.server else "",
                out.ago(one.created_at),
            )
            for one in views
        ],
    )


@app.command()
def show(disk: DiskName, project: Project = None, output: Output = Format.TABLE) -> None:
    """Show a data disk."""
    with connect() as client:
        found = _found(client, disk, project)
    if output is Format.JSON:
        out.emit_json(found)
        return
    view = lookup.parsed(DiskView, found)
    out.emit_details(
        [
            ("name", view.name),
            ("id", view.id),
            ("phase", view.phase),
            ("server", view.server),
            ("host", view.host),
            ("size", f"{view.size_gib} GiB, {view.format}"),
            ("pool", view.pool),
            ("device", view.device),
            ("cache", view.cache),
            ("discard", "yes" if view.discard else "no"),
            ("writable", "no" if view.read_only else "yes"),
            ("most requests", f"{view.iops} a second" if view.iops else None),
            ("most bytes", f"{view.throughput_mib} MiB a second" if view.throughput_mib else None),
            ("boot order", view.boot_order),
            ("server deleted", "is deleted, too" if view.delete_on_server_delete else "is kept"),
            ("created", f"{view.created_at:%Y-%m-%d %H:%M:%S} ({out.ago(view.created_at)})"),
        ]
    )


@app.command()
@foresight.plannable
def delete(
    disk: DiskName, *, yes: Yes = False, project: Project = None, output: Output = Format.TABLE
) -> None:
    """Delete a disk that no server has, with what is on it."""
    out.confirm(f"Delete disk {disk} and all that is on it?", yes=yes or foresight.dry_run())
    with connect() as client:
        path = f"/disks/{_found(client, disk, project)['id']}"
        plan = client.delete(path, **foresight.query())
    if foresight.dry_run():
        foresight.show([plan], output, several=False)
    else:
        typer.echo(f"{disk} is deleted")


def _found(client: Client, name_or_id: str, project: str | None) -> Json:
    """Return the disk of this name or id, one that is not being deleted first."""
    entries = [
        entry
        for entry in client.items("/disks", project=project)
        if name_or_id in {entry["name"], entry["id"]}
    ]
    for entry in sorted(entries, key=lambda entry: bool(entry["phase"] == "deleting")):
        return entry
    raise Missing("Not found", f"There is no disk '{name_or_id}': see `innkeeper disk list`.")
