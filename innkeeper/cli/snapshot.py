"""`innkeeper snapshot …`."""

from typing import Annotated, Literal, cast

import typer

from innkeeper.cli import accepted, foresight, lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.failures import Missing, OperationFailed, UsageFailure
from innkeeper.cli.options import Limit, Output, Project, Repeatable, ServerName, Wait, Yes
from innkeeper.cli.output import Format
from innkeeper.services.views import SnapshotView

app = typer.Typer(no_args_is_help=True, help="Snapshots: take, list, revert to, delete.")

SnapshotName = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Name or id of the snapshot.")
]
_MIB = 1 << 20


@app.command()
@foresight.plannable
def create(
    server: ServerName,
    name: Annotated[str | None, typer.Argument(help="What to call it; else by the time.")] = None,
    *,
    memory: Annotated[bool, typer.Option("--memory", help="Keep the memory, too.")] = False,
    quiesce: Annotated[
        str, typer.Option(help="Freeze file systems by the guest agent: auto, required or off.")
    ] = "auto",
    description: Annotated[str, typer.Option(help="Free text, shown in lists.")] = "",
    max_age: Annotated[
        int | None, typer.Option(min=60, help="Seconds until it is deleted by itself.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="The server cannot be deleted while this is there.")
    ] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Take a snapshot of a server, running, stopped or suspended."""
    body: Json = {"memory": memory, "quiesce": quiesce_word(quiesce), "description": description}
    body |= {"delete_on_server_delete": not keep}
    body |= {"name": name} if name else {}
    body |= {"max_age": max_age} if max_age else {}
    with connect() as client:
        path = _path(client, server, project)
        operation = client.post(path, body, idempotency_key=idempotency_key, **foresight.query())
        accepted.conclude(client, [operation], wait=wait, fmt=output)


def quiesce_word(word: str) -> Literal["auto", "required", "off"]:
    """Return how to quiesce, or refuse the word."""
    if word not in {"auto", "required", "off"}:
        raise typer.BadParameter("choose auto, required or off", param_hint="--quiesce")
    return cast("Literal['auto', 'required', 'off']", word)


@app.command("list")
def list_snapshots(
    server: ServerName, limit: Limit = 200, project: Project = None, output: Output = Format.TABLE
) -> None:
    """List a server's snapshots as a tree, the oldest first; * marks the one its disk lies on."""
    with connect() as client:
        found = list(client.items(_path(client, server, project), limit=limit))
    if output is Format.JSON:
        out.emit_json(found)
        return
    views = [lookup.parsed(SnapshotView, entry) for entry in reversed(found)]
    out.emit_table(
        ("NAME", "PHASE", "KIND", "SIZE MIB", "AGE", "VERIFIED", "DESCRIPTION"),
        [
            (
                f"{'  ' * depth}{'* ' if one.current else ''}{one.name}",
                one.phase,
                one.kind,
                f"{one.size_bytes / _MIB:.1f}",
                out.ago(one.created_at),
                _verified(one),
                one.description,
            )
            for depth, one in _tree(views)
        ],
    )


def _verified(view: SnapshotView) -> str:
    at = view.verified_at
    said = "yes" if view.verification == "verified" else view.verification
    return f"{said}, {out.ago(at)}" if at else "no"


def _tree(views: list[SnapshotView]) -> list[tuple[int, SnapshotView]]:
    """Return each snapshot after the one it was taken on, with its depth."""
    known = {view.id for view in views}
    waiting = [(0, v) for v in reversed(views) if v.parent_id not in known]
    ordered = []
    while waiting:
        depth, view = waiting.pop()
        ordered.append((depth, view))
        waiting += [(depth + 1, v) for v in reversed(views) if v.parent_id == view.id]
    return ordered


@app.command()
def show(
    server: ServerName,
    snapshot: SnapshotName,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Show a snapshot."""
    with connect() as client:
        found = _found(client, _path(client, server, project), snapshot)
    if output is Format.JSON:
        out.emit_json(found)
        return
    view = lookup.parsed(SnapshotView, found)
    out.emit_details(
        [
            ("name", view.name),
            ("id", view.id),
            ("phase", view.phase),
            ("fault", view.fault),
            ("kind", view.kind),
            ("size", f"{view.size_bytes / _MIB:.1f} MiB"),
            ("taken on", view.parent_id),
            ("current", "the server's disk lies on it" if view.current else None),
            ("description", view.description),
            ("enabled", "yes" if view.enabled else "no: nobody can revert to it"),
            ("created", f"{view.created_at:%Y-%m-%d %H:%M:%S} ({out.ago(view.created_at)})"),
            ("expires", view.expires_at),
            ("verified", _verified(view)),
            ("which showed", view.verification_detail or None),
            ("keeps the server", None if view.delete_on_server_delete else "from being deleted"),
        ]
    )


@app.command("set")
def change(
    server: ServerName,
    snapshot: SnapshotName,
    *,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Whether one may revert to it."),
    ] = None,
    keep: Annotated[
        bool | None,
        typer.Option("--keep/--no-keep", help="Whether the server cannot be deleted meanwhile."),
    ] = None,
    max_age: Annotated[
        int | None, typer.Option(min=0, help="Seconds until it is deleted by itself; 0: never.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="Free text, shown in lists.")] = None,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Change what is said of a snapshot; options that are left out change nothing."""
    body: Json = {} if enabled is None else {"enabled": enabled}
    body |= {} if keep is None else {"delete_on_server_delete": not keep}
    body |= {} if max_age is None else {"max_age": max_age or None}
    body |= {} if description is None else {"description": description}
    if not body:
        raise UsageFailure("Nothing to set", "Name an option, for example --keep.")
    with connect() as client:
        path = _path(client, server, project)
        found = client.patch(f"{path}/{_found(client, path, snapshot)['id']}", body)
    if output is Format.JSON:
        out.emit_json(found)
        return
    typer.echo(f"{found['name']} is changed")


@app.command()
@foresight.plannable
def revert(
    server: ServerName,
    snapshot: SnapshotName,
    *,
    yes: Yes = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring a server back to a snapshot; what it wrote since then is lost."""
    out.confirm(f"Give up what {server} wrote since {snapshot}?", yes=yes or foresight.dry_run())
    with connect() as client:
        path = _path(client, server, project)
        identifier = _found(client, path, snapshot)["id"]
        operation = client.post(
            f"{path}/{identifier}/actions/revert",
            {},
            idempotency_key=idempotency_key,
            **foresight.query(),
        )
        accepted.conclude(client, [operation], wait=wait, fmt=output)


@app.command()
@foresight.plannable
def delete(
    server: ServerName,
    snapshot: SnapshotName,
    *,
    yes: Yes = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete a snapshot; the server and its other snapshots stay as they are."""
    out.confirm(f"Delete snapshot {snapshot} of {server}?", yes=yes or foresight.dry_run())
    with connect() as client:
        path = _path(client, server, project)
        identifier = _found(client, path, snapshot)["id"]
        operation = client.delete(
            f"{path}/{identifier}", idempotency_key=idempotency_key, **foresight.query()
        )
        accepted.conclude(client, [operation], wait=wait, fmt=output)


@app.command()
@foresight.plannable
def verify(
    server: ServerName,
    snapshot: SnapshotName,
    *,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Boot a throw-away guest from a snapshot, to prove that it is good; the server goes on."""
    with connect() as client:
        path = _path(client, server, project)
        one = f"{path}/{_found(client, path, snapshot)['id']}"
        operation = client.post(
            f"{one}/actions/verify", {}, idempotency_key=idempotency_key, **foresight.query()
        )
        accepted.conclude(client, [operation], wait=wait, fmt=output)
        if not wait or foresight.dry_run():
            return
        found = lookup.parsed(SnapshotView, client.get(one))
        if output is not Format.JSON:
            typer.echo(f"{found.name} is {found.verification}: {found.verification_detail}")
        if found.verification != "verified":
            raise OperationFailed(f"{found.name} is not verified", found.verification_detail)


def _path(client: Client, server: str, project: str | None) -> str:
    return f"/servers/{lookup.server(client, server, project)['id']}/snapshots"


def _found(client: Client, path: str, name_or_id: str) -> Json:
    """Return the snapshot of this name or id, a usable one before one that failed."""
    entries = [e for e in client.items(path) if name_or_id in {e["name"], e["id"]}]
    for entry in sorted(entries, key=lambda entry: bool(entry["phase"] == "failed")):
        return entry
    raise Missing(
        "Not found", f"There is no snapshot '{name_or_id}': see `innkeeper snapshot list`."
    )
