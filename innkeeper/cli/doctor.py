"""`innkeeper doctor`: check this machine and say what to fix."""

from dataclasses import asdict
from typing import Annotated

import typer

from innkeeper import doctor
from innkeeper.cli.client import connect as connect_api
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format, emit_json, emit_table
from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor.connection import connect
from innkeeper.settings import settings


def command(
    host: Annotated[
        list[str] | None,
        typer.Option("--host", help="A libvirt URI that has to answer; may be repeated."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check this machine and say what to fix; the exit code is 1 when something fails."""
    uris = dict.fromkeys([*(host or ()), *_known_hosts()])
    found = doctor.examine(settings(), hosts=uris, connect=connect)
    if output is Format.JSON:
        emit_json([asdict(check) for check in found])
    else:
        emit_table(
            ("check", "result", "what", "next step"),
            [(check.name, check.result, check.what, check.fix) for check in found],
        )
    if any(check.result is doctor.Result.FAIL for check in found):
        raise typer.Exit(1)


def _known_hosts() -> list[str]:
    """Return the URIs of the hosts that the API knows; none when it does not answer."""
    try:
        with connect_api() as client:
            return [str(entry["uri"]) for entry in client.items("/hosts") if entry["enabled"]]
    except InnkeeperError:
        return []
