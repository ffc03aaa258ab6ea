"""`innkeeper doctor`: check this machine and say what to fix."""

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from innkeeper import doctor
from innkeeper.hypervisor.connection import connect
from innkeeper.settings import settings

COLOURS = {doctor.Result.OK: "green", doctor.Result.WARN: "yellow", doctor.Result.FAIL: "red"}


class Output(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


def command(
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A libvirt URI that has to answer; may be repeated."),
    ] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="How to print.")] = Output.TABLE,
) -> None:
    """Check this machine and say what to fix; the exit code is 1 when something fails."""
    found = doctor.examine(settings(), hosts=host or (), connect=connect)
    if output is Output.JSON:
        typer.echo(json.dumps([asdict(check) for check in found], indent=2))
    else:
        table = Table("check", "result", "what", "next step")
        for check in found:
            colour = COLOURS[check.result]
            table.add_row(
                check.name, f"[{colour}]{check.result}[/]", escape(check.what), escape(check.fix)
            )
        Console().print(table)
    if any(check.result is doctor.Result.FAIL for check in found):
        raise typer.Exit(1)
