"""`innkeeper operation …`."""

from typing import Annotated
from uuid import UUID

import typer

from innkeeper.cli import accepted, lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import connect
from innkeeper.cli.options import Limit, Output, Project, Wait
from innkeeper.cli.output import Format
from innkeeper.cli.progress import current_step, steps_done
from innkeeper.domain.lifecycle import Phase, Verb
from innkeeper.services.views import OperationView

app = typer.Typer(no_args_is_help=True, help="Operations: what is being done, and what was.")

OperationId = Annotated[UUID, typer.Argument(metavar="ID", help="Id of the operation.")]


@app.command("list")
def list_operations(
    *,
    server: Annotated[str | None, typer.Option(help="Only those of this server.")] = None,
    phase: Annotated[Phase | None, typer.Option(help="Only those in this phase.")] = None,
    verb: Annotated[Verb | None, typer.Option(help="Only those of this verb.")] = None,
    limit: Limit = 50,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """List operations, newest first."""
    with connect() as client:
        server_id = lookup.server(client, server, project)["id"] if server else None
        found = list(
            client.items(
                "/operations",
                limit=limit,
                server_id=server_id,
                phase=phase,
                verb=verb,
                project=project,
            )
        )
    if output is Format.JSON:
        out.emit_json(found)
        return
    out.emit_table(
        ("ID", "SERVER", "VERB", "PHASE", "STEP", "SECONDS", "ACTOR", "AGE"),
        [_row(lookup.parsed(OperationView, entry)) for entry in found],
    )


@app.command()
def show(operation_id: OperationId, output: Output = Format.TABLE) -> None:
    """Show an operation: its steps, the verdict of placement, and why it failed."""
    with connect() as client:
        found = client.get(f"/operations/{operation_id}")
    if output is Format.JSON:
        out.emit_json(found)
        return
    operation = lookup.parsed(OperationView, found)
    out.emit_details(
        [
            ("operation", operation.id),
            ("server", f"{operation.server} ({operation.server_id})"),
            ("verb", operation.verb),
            ("phase", operation.phase),
            ("undoing", "yes" if operation.undoing and not operation.phase.ended else None),
            ("error", operation.error),
            ("asked by", operation.actor),
            ("attempt", operation.attempt or None),
            ("flow run", operation.flow_run_id),
            ("created", f"{operation.created_at:%Y-%m-%d %H:%M:%S}"),
            ("seconds", _seconds(operation)),
        ]
    )
    for step in sorted(operation.steps, key=lambda entry: entry.begun_at):
        place = f"{step.ordinal + 1}/{len(operation.step_names)}"
        seconds = f"{out.seconds_between(step.begun_at, step.ended_at):.1f} s"
        tries = f" in {step.tries} tries" if step.tries > 1 else ""
        detail = f": {out.plain(step.detail)}" if step.detail else ""
        typer.echo(f"  {place:>5}  {step.name:<14} {step.state:<8} {seconds:>8}{tries}{detail}")


@app.command()
def cancel(operation_id: OperationId, wait: Wait = False, output: Output = Format.TABLE) -> None:
    """Ask for a cancel: the operation stops before its next step and undoes what it did."""
    with connect() as client:
        found = client.post(f"/operations/{operation_id}/cancel")
        if wait:
            accepted.conclude(client, [found], wait=True, fmt=output, wanted=Phase.CANCELLED)
            return
    if output is Format.JSON:
        out.emit_json(found)
    else:
        typer.echo(f"{found['server']}: cancel of {found['verb']} requested")


@app.command()
def watch(operation_id: OperationId, output: Output = Format.TABLE) -> None:
    """Follow an operation to its end, step by step; exit code 1 when it does not succeed."""
    with connect() as client:
        found = client.get(f"/operations/{operation_id}")
        accepted.conclude(client, [found], wait=True, fmt=output)


def _row(operation: OperationView) -> tuple[object, ...]:
    step = current_step(operation)
    total = len(operation.step_names)
    at = f"{steps_done(operation)}/{total}" + (
        f" {step.name}" if step and not operation.phase.ended else ""
    )
    return (
        operation.id,
        operation.server,
        operation.verb,
        operation.phase,
        at,
        _seconds(operation),
        operation.actor,
        out.ago(operation.created_at),
    )


def _seconds(operation: OperationView) -> str:
    if operation.started_at is None:
        return ""
    return f"{out.seconds_between(operation.started_at, operation.ended_at):.1f}"
