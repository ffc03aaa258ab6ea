"""`innkeeper snapshot-policy …`."""

from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.failures import Missing, Refused, UsageFailure
from innkeeper.cli.options import Output, Project, Yes
from innkeeper.cli.output import Format
from innkeeper.services.views import SnapshotPolicyView

app = typer.Typer(
    no_args_is_help=True, help="Snapshot policies: when snapshots are taken, and which ones stay."
)

_PATH = "/snapshot-policies"
PolicyName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the policy.")]
Window = Annotated[
    str | None, typer.Option(help="When, in UTC, such as 'daily 22:00-05:30'; else any time.")
]
Stagger = Annotated[
    int | None, typer.Option(min=0, max=59, help="Minutes over which servers begin spread.")
]
Memory = Annotated[
    bool | None, typer.Option("--memory/--no-memory", help="Keep the memory of running servers.")
]
Quiesce = Annotated[
    str | None, typer.Option(help="Freeze file systems by the guest agent: auto, required or off.")
]
Verify = Annotated[
    str | None,
    typer.Option(help="Boot throw-away copies: of the newest once a day, of all, or of none."),
]
Enabled = Annotated[bool | None, typer.Option("--enable/--disable", help="Whether it is applied.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    schedule: Annotated[
        str, typer.Argument(help="How many of each class stay: hourly:24,daily:7,weekly:4.")
    ],
    *,
    server: Annotated[str | None, typer.Option(help="The server it is for.")] = None,
    plan: Annotated[str | None, typer.Option(help="The plan whose servers it is for.")] = None,
    window: Window = None,
    stagger: Stagger = None,
    memory: Memory = None,
    quiesce: Quiesce = None,
    verify: Verify = None,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a policy; without --server or --plan it is for the whole project."""
    body = _given(window=window, stagger_minutes=stagger, memory=memory, quiesce=quiesce)
    body |= _given(verify=verify)
    body |= {"name": name, "schedule": schedule}
    with connect() as client:
        if server:
            body["server"] = lookup.server(client, server, project)["id"]
        if plan:
            body["plan"] = plan
        found = client.post(_PATH, body, project=project)
        _print(client, [found], found, output)


@app.command("list")
def list_policies(project: Project = None, output: Output = Format.TABLE) -> None:
    """List policies."""
    with connect() as client:
        found = list(client.items(_PATH, project=project))
        _print(client, found, found, output)


@app.command("set")
def change(
    name: PolicyName,
    *,
    schedule: Annotated[str | None, typer.Option(help="How many of each class stay.")] = None,
    window: Annotated[
        str | None, typer.Option(help="When, in UTC, such as 'daily 22:00-05:30'; any: no window.")
    ] = None,
    stagger: Stagger = None,
    memory: Memory = None,
    quiesce: Quiesce = None,
    verify: Verify = None,
    enabled: Enabled = None,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a policy; options that are left out change nothing."""
    body = _given(schedule=schedule, stagger_minutes=stagger, memory=memory, quiesce=quiesce)
    body |= _given(window=window, enabled=enabled, verify=verify)
    if window == "any":
        body["window"] = None
    if not body:
        raise UsageFailure("Nothing to set", "Name an option, for example --schedule daily:7.")
    with connect() as client:
        found = client.patch(f"{_PATH}/{_found(client, name, project)['id']}", body)
        _print(client, [found], found, output)


@app.command()
def delete(name: PolicyName, *, yes: Yes = False, project: Project = None) -> None:
    """Delete a policy; the snapshots that it took stay until somebody deletes them."""
    out.confirm(f"Delete snapshot policy {name}?", yes=yes)
    with connect() as client:
        client.delete(f"{_PATH}/{_found(client, name, project)['id']}")
    typer.echo(f"{name} is deleted")


def _given(**options: object) -> Json:
    return {name: value for name, value in options.items() if value is not None}


def _found(client: Client, name_or_id: str, project: str | None) -> Json:
    found = [e for e in client.items(_PATH, project=project) if name_or_id in {e["name"], e["id"]}]
    if not found:
        raise Missing(
            "Not found", f"There is no policy '{name_or_id}': see `innkeeper snapshot-policy list`."
        )
    if len(found) > 1:
        raise Refused(
            "Ambiguous name", f"Several projects have a policy '{name_or_id}': add --project."
        )
    return found[0]


def _print(client: Client, found: list[Json], data: Json | list[Json], output: Format) -> None:
    if output is Format.JSON:
        out.emit_json(data)
        return
    views = [lookup.parsed(SnapshotPolicyView, entry) for entry in found]
    out.emit_table(
        ("NAME", "FOR", "KEEPS", "WINDOW (UTC)", "QUIESCE", "MEMORY", "VERIFY", "ENABLED"),
        [
            (
                view.name,
                _subject(client, view),
                view.schedule,
                view.window or "any time",
                view.quiesce,
                "yes" if view.memory else "no",
                view.verify,
                "yes" if view.enabled else "no",
            )
            for view in views
        ],
    )


def _subject(client: Client, view: SnapshotPolicyView) -> str:
    if view.scope == "project":
        return "the project"
    try:
        return f"{view.scope} {client.get(f'/{view.scope}s/{view.subject_id}')['name']}"
    except Missing:  # a plan that was removed; its servers stay
        return f"{view.scope} {view.subject_id}"
