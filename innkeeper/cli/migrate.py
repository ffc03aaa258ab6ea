"""`innkeeper server migrate`."""

from typing import Annotated

import typer

from innkeeper.cli import foresight
from innkeeper.cli.acting import act
from innkeeper.cli.client import Json
from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.options import Output, Project, Repeatable, ServerNames, Wait
from innkeeper.cli.output import Format


@foresight.plannable
def migrate(
    names: ServerNames,
    *,
    host: Annotated[str | None, typer.Option(help="A certain host; else what fits best.")] = None,
    live: Annotated[bool, typer.Option("--live", help="While it runs, or not at all.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Shut down, copied, started again.")] = False,
    allow_power_cycle: Annotated[
        bool, typer.Option("--allow-power-cycle", help="Off and on, where it cannot be done live.")
    ] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Move servers, with disks, snapshots and address, to other hosts; live where possible."""
    if live and cold:
        raise UsageFailure("Live and cold", "Name one of --live and --cold, or neither.")
    mode = "live" if live else "cold" if cold else "auto"
    body: Json = {"mode": mode, "allow_power_cycle": allow_power_cycle}
    body |= {"host": host} if host else {}
    act("migrate", names, body, idempotency_key, project, wait=wait, output=output)
