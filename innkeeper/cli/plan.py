"""`innkeeper plan …`."""

from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Json, connect
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format
from innkeeper.services.views import PlanView

app = typer.Typer(no_args_is_help=True, help="Plans: named sizes of servers.")

COLUMNS = ("NAME", "VCPUS", "MEMORY MIB", "DISK GIB", "PRICE/H")
PlanName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the plan.")]


@app.command("list")
def list_plans(output: Output = Format.TABLE) -> None:
    """List plans."""
    with connect() as client:
        found = list(client.items("/plans"))
    _print(found, found, output)


@app.command()
def show(name: PlanName, output: Output = Format.TABLE) -> None:
    """Show a plan."""
    with connect() as client:
        found = lookup.named(client, "plan", name)
    _print([found], found, output)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    *,
    vcpus: Annotated[int, typer.Option(min=1)],
    memory_mib: Annotated[int, typer.Option(min=1)],
    disk_gib: Annotated[int, typer.Option(min=1)],
    price_per_hour: Annotated[float, typer.Option(min=0)] = 0.0,
    output: Output = Format.TABLE,
) -> None:
    """Create a plan."""
    body = {
        "name": name,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "disk_gib": disk_gib,
        "price_per_hour": price_per_hour,
    }
    with connect() as client:
        found = client.post("/plans", body)
    _print([found], found, output)


@app.command()
def delete(name: PlanName) -> None:
    """Delete a plan; servers that were made with it stay as they are."""
    with connect() as client:
        client.delete(f"/plans/{lookup.named(client, 'plan', name)['id']}")
    typer.echo(f"{name} is deleted")


def _print(found: list[Json], data: Json | list[Json], output: Format) -> None:
    if output is Format.JSON:
        out.emit_json(data)
        return
    plans = [lookup.parsed(PlanView, entry) for entry in found]
    out.emit_table(
        COLUMNS,
        [
            (plan.name, plan.vcpus, plan.memory_mib, plan.disk_gib, f"{plan.price_per_hour:g}")
            for plan in plans
        ],
    )
