"""After the API accepted operations: tell so, or wait for their end and tell how they ended."""

from collections.abc import Callable, Sequence

import typer

from innkeeper.cli import foresight, output
from innkeeper.cli.client import Client, Json
from innkeeper.cli.failures import CliFailure, OperationFailed
from innkeeper.cli.login import command_line, parsed_server
from innkeeper.cli.lookup import parsed
from innkeeper.cli.output import Format
from innkeeper.cli.progress import show_all
from innkeeper.cli.watch import watch
from innkeeper.domain.lifecycle import Phase, Status
from innkeeper.services.views import OperationView


def each(
    names: Sequence[str], request: Callable[[str], Json], *, go_on: bool = True
) -> tuple[list[Json], list[CliFailure]]:
    """Make a request for each name; return the accepted operations and what was refused.

    `go_on` tells whether a refusal of one says nothing about the others.
    """
    operations: list[Json] = []
    failures: list[CliFailure] = []
    for name in names:
        try:
            operations.append(request(name))
        except CliFailure as failure:
            failures.append(failure)
            if len(names) > 1:
                output.say(f"{name}: {failure.heading}")
            if not go_on:
                break
    return operations, failures


def conclude(
    client: Client,
    operations: list[Json],
    failures: Sequence[CliFailure] = (),
    *,
    wait: bool,
    fmt: Format,
    several: bool = False,
    wanted: Phase = Phase.SUCCEEDED,
) -> None:
    """Print the operations, after their end when `wait`; then raise the first failure.

    Of a dry run they are plans.

    `wanted` is the end that counts as success: a cancel wants its operation cancelled.

    Raises:
        CliFailure: the first refusal; OperationFailed when an operation did not succeed.
    """
    failed = list(failures)
    if foresight.dry_run():
        foresight.show(operations, fmt, several=several)
        if failed:
            raise failed[0]
        return
    if wait and operations:
        operations = _ended(client, operations)
        failed += [_failure(entry) for entry in operations if entry["phase"] != wanted]
    if fmt is Format.JSON:
        if operations or several:
            output.emit_json(operations if several else operations[0])
    elif wait:
        for operation in operations:
            _tell_end(client, operation)
    else:
        for operation in operations:
            _tell_accepted(operation)
    if failed:
        raise failed[0]


def _ended(client: Client, operations: list[Json]) -> list[Json]:
    views = [parsed(OperationView, operation) for operation in operations]
    try:
        show_all(watch(client, [view.id for view in views]))
    except KeyboardInterrupt:
        for view in views:
            output.say(f"{view.server}: goes on; innkeeper operation watch {view.id}")
        raise
    return [client.get(f"/operations/{view.id}") for view in views]


def _failure(operation: Json) -> OperationFailed:
    why = operation.get("error") or ""
    return OperationFailed(
        f"{operation['server']}: {operation['verb']} {operation['phase']}",
        f"{why}\nSee `innkeeper operation show {operation['id']}`.".strip(),
    )


def _tell_accepted(operation: Json) -> None:
    if _told_to_wait(operation):
        return
    typer.echo(f"{operation['server']}: {operation['verb']} accepted")
    output.say(f"  follow it with: innkeeper operation watch {operation['id']}")


def _told_to_wait(operation: Json) -> bool:
    if not operation.get("deferred"):
        return False
    name = operation["server"]
    typer.echo(f"{name}: the {operation['verb']} waits for a power cycle")
    output.say(f"  see for what: innkeeper server show {name}")
    return True


def _tell_end(client: Client, operation: Json) -> None:
    if _told_to_wait(operation):
        return
    if operation["phase"] == Phase.CANCELLED:
        typer.echo(f"{operation['server']}: {operation['verb']} cancelled")
    if operation["phase"] != Phase.SUCCEEDED:
        return
    if operation["verb"] == "delete-snapshot":
        typer.echo(f"{operation['server']}: the snapshot is deleted")
        return
    if operation["verb"] == "snapshot":
        typer.echo(f"{operation['server']}: the snapshot is ready")
        return
    if operation["verb"] == "verify-snapshot":
        typer.echo(f"{operation['server']}: the snapshot was looked at")
        return
    if operation["verb"] == "delete":
        typer.echo(f"{operation['server']} is deleted")
        return
    server = parsed_server(client.get(f"/servers/{operation['server_id']}"))
    typer.echo(f"{server.name} is {server.status}")
    if server.status is Status.ACTIVE and server.ssh_port:
        typer.echo(f"  log in: innkeeper server ssh {server.name}")
        typer.echo(f"  or:     {command_line(server)}")
    if server.root_password_available:
        output.say(f"  root password, shown once: innkeeper server password {server.name}")
