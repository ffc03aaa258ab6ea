"""`innkeeper project …`."""

from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Json, connect
from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.options import Output
from innkeeper.cli.output import Format
from innkeeper.services.views import ProjectView, QuotaView

app = typer.Typer(no_args_is_help=True, help="Projects: who owns servers, and how many.")
quota = typer.Typer(no_args_is_help=True, help="Limits of a project and what it uses.")
app.add_typer(quota, name="quota")

ProjectName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the project.")]
QuotaLimit = Annotated[int | None, typer.Option(min=-1, help="-1: no limit.")]
RESOURCES = (
    *("servers", "vcpus", "memory_mib", "disk_gib"),
    *("snapshots", "snapshot_gib", "isolated_networks"),
)


@app.command("list")
def list_projects(output: Output = Format.TABLE) -> None:
    """List projects."""
    with connect() as client:
        found = list(client.items("/projects"))
    if output is Format.JSON:
        out.emit_json(found)
        return
    projects = [lookup.parsed(ProjectView, entry) for entry in found]
    out.emit_table(
        ("NAME", "ID", "AGE"),
        [(project.name, project.id, out.ago(project.created_at)) for project in projects],
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    *,
    servers: QuotaLimit = None,
    vcpus: QuotaLimit = None,
    memory_mib: QuotaLimit = None,
    disk_gib: QuotaLimit = None,
    snapshots: QuotaLimit = None,
    snapshot_gib: QuotaLimit = None,
    isolated_networks: QuotaLimit = None,
    output: Output = Format.TABLE,
) -> None:
    """Create a project, with a quota of its own or the default one."""
    limits = _limits(
        servers, vcpus, memory_mib, disk_gib, snapshots, snapshot_gib, isolated_networks
    )
    with connect() as client:
        body: Json = {"name": name}
        if limits:
            body["quota"] = limits
        found = client.post("/projects", body)
    if output is Format.JSON:
        out.emit_json(found)
        return
    typer.echo(f"{found['name']} is created")


@quota.command("show")
def show_quota(name: ProjectName, output: Output = Format.TABLE) -> None:
    """Show a project's limits and use."""
    with connect() as client:
        project_id = lookup.named(client, "project", name)["id"]
        found = client.get(f"/projects/{project_id}/quota")
    _print_quota(found, output)


@quota.command("set")
def set_quota(
    name: ProjectName,
    *,
    servers: QuotaLimit = None,
    vcpus: QuotaLimit = None,
    memory_mib: QuotaLimit = None,
    disk_gib: QuotaLimit = None,
    snapshots: QuotaLimit = None,
    snapshot_gib: QuotaLimit = None,
    isolated_networks: QuotaLimit = None,
    output: Output = Format.TABLE,
) -> None:
    """Change limits of a project; those that are not named stay."""
    limits = _limits(
        servers, vcpus, memory_mib, disk_gib, snapshots, snapshot_gib, isolated_networks
    )
    if not limits:
        raise UsageFailure("Nothing to set", "Name a limit, for example --servers 20.")
    with connect() as client:
        project_id = lookup.named(client, "project", name)["id"]
        found = client.put(f"/projects/{project_id}/quota", limits)
    _print_quota(found, output)


def _limits(*amounts: int | None) -> dict[str, int]:
    given = zip(RESOURCES, amounts, strict=True)
    return {resource: amount for resource, amount in given if amount is not None}


def _print_quota(found: Json, output: Format) -> None:
    if output is Format.JSON:
        out.emit_json(found)
        return
    limits = lookup.parsed(QuotaView, found).model_dump()
    out.emit_table(
        ("RESOURCE", "USED", "LIMIT"),
        [
            (
                resource.replace("_", " "),
                limits[f"used_{resource}"],
                "none" if limits[resource] < 0 else limits[resource],
            )
            for resource in RESOURCES
        ],
    )
