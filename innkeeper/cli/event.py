"""`innkeeper event …`."""

import json
import time
from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Json, connect
from innkeeper.cli.options import Limit, Output, Project
from innkeeper.cli.output import Format
from innkeeper.services.views import EventView

app = typer.Typer(no_args_is_help=True, help="Events: who changed what, when and why.")

POLL_SECONDS = 1.0


@app.callback()
def _noun() -> None:
    """Keep `list` a command of its own though it is the only one."""


@app.command("list")
def list_events(
    *,
    server: Annotated[str | None, typer.Option(help="Only those of this server.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")
    ] = False,
    limit: Limit = 50,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """List events, oldest first. With --follow and JSON: one event a line."""
    with connect() as client:
        server_id = lookup.server(client, server, project)["id"] if server else None
        query: Json = {"server_id": server_id, "kind": kind, "project": project}
        found = sorted(client.items("/events", limit=limit, **query), key=lambda one: one["id"])
        _print(found, output, follow=follow)
        last = found[-1]["id"] if found else 0
        while follow:
            time.sleep(POLL_SECONDS)
            fresh = list(client.items("/events", after_id=last, **query))
            fresh.sort(key=lambda one: one["id"])
            _print(fresh, output, follow=True)
            last = fresh[-1]["id"] if fresh else last


def _print(found: list[Json], output: Format, *, follow: bool) -> None:
    if output is Format.JSON and not follow:
        out.emit_json(found)
        return
    for entry in found:
        if output is Format.JSON:
            typer.echo(json.dumps(entry, ensure_ascii=False))
            continue
        event = lookup.parsed(EventView, entry)
        after = " ".join(f"{key}={value}" for key, value in (event.after or {}).items())
        reason = f" ({event.reason})" if event.reason else ""
        line = f"{event.at:%Y-%m-%d %H:%M:%S}  {event.kind:<28} {event.actor:<16} {after}{reason}"
        typer.echo(out.plain(line).rstrip())
