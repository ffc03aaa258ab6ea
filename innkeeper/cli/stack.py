"""`innkeeper stack …`: the programs of this machine."""

import os
import subprocess
from dataclasses import asdict
from typing import Annotated

import typer

from innkeeper.cli.options import Output, Yes
from innkeeper.cli.output import Format, emit_json, emit_table
from innkeeper.lab.fleet import Lab
from innkeeper.settings import settings
from innkeeper.stack import footprint as usage
from innkeeper.stack import lifecycle
from innkeeper.stack.hooks import deploy, migrate
from innkeeper.stack.programs import ALL
from innkeeper.stack.progress import printed

app = typer.Typer(
    no_args_is_help=True, help="The programs of this machine: database, Prefect, worker, API."
)


@app.command()
def up(
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Start these programs only: {', '.join(ALL)}. May be repeated."),
    ] = None,
) -> None:
    """Start what does not run, restart what changed; returns when everything serves."""
    unknown = set(only or ()) - set(ALL)
    if unknown:
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(ALL)}")
    hooks = lifecycle.Hooks(
        migrate=migrate, deploy=deploy if not only or "prefect" in only else None
    )
    lifecycle.up(only=only or ALL, progress=printed(), hooks=hooks)


@app.command()
def down(
    keep_lab: Annotated[
        bool, typer.Option("--keep-lab", help="Leave the lab's hosts and guests running.")
    ] = False,
) -> None:
    """Stop every program and the lab; data stays. Nothing else is left behind."""
    stopped = lifecycle.down()
    if not stopped.was_running and not stopped.strays:
        typer.echo("  stack      was not running")
    else:
        told = f", with {len(stopped.strays)} strays of a killed one" if stopped.strays else ""
        typer.echo(f"  stack      stopped{told}")
    if not keep_lab and os.geteuid() == 0:
        Lab().down()
        typer.echo("  lab        down")


@app.command()
def status(output: Output = Format.TABLE) -> None:
    """Show every program; the exit code is 1 unless all of them serve."""
    found = lifecycle.status()
    if output is Format.JSON:
        emit_json([asdict(program) for program in found])
    else:
        emit_table(
            ("program", "state", "healthy", "pid", "up", "address"),
            [
                (
                    program.name,
                    program.state,
                    "yes" if program.healthy else "no",
                    program.pid or "",
                    f"{program.uptime} s" if program.pid else "",
                    program.address,
                )
                for program in found
            ],
        )
    if not found or not all(program.healthy for program in found):
        raise typer.Exit(1)


@app.command()
def logs(
    program: Annotated[str, typer.Argument(help=f"One of {', '.join(ALL)}, or supervisord.")],
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="How many.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing.")] = False,
) -> None:
    """Show the end of a program's log."""
    if program not in {*ALL, "supervisord"}:
        raise typer.BadParameter(f"known: {', '.join(ALL)}, supervisord")
    file = settings().home / "logs" / f"{program}.log"
    if not file.exists():
        typer.echo(f"{program} has no log yet; `innkeeper stack up` starts it.", err=True)
        raise typer.Exit(1)
    subprocess.run(["tail", "-n", str(lines), *(["-F"] if follow else []), str(file)], check=False)


@app.command()
def footprint(
    seconds: Annotated[float, typer.Option(min=1, help="How long to watch.")] = 30.0,
    output: Output = Format.TABLE,
) -> None:
    """Measure memory and processor time of the running stack."""
    found = usage.measure(settings().home, seconds)
    if output is Format.JSON:
        emit_json([asdict(entry) for entry in found])
        return
    processes = sum(entry.processes for entry in found)
    total = usage.Usage("all", processes, sum(e.memory for e in found), sum(e.cpu for e in found))
    emit_table(
        ("program", "processes", "memory MiB", "% of a core"),
        [(e.name, e.processes, f"{e.memory:.0f}", f"{e.cpu:.2f}") for e in (*found, total)],
    )


@app.command()
def destroy(yes: Yes = False) -> None:
    """Stop the stack and delete its databases and logs. There is no way back."""
    if not yes:
        typer.confirm(f"Delete the databases of {settings().home}?", abort=True)
    for path in lifecycle.destroy():
        typer.echo(f"  deleted    {path}")
