"""`innkeeper server create`, also `innkeeper create`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from innkeeper.cli import accepted, foresight, request, tuning
from innkeeper.cli.client import Json, connect
from innkeeper.cli.options import Inbound, Outbound, Output, Project, Repeatable, Wait
from innkeeper.cli.output import Format


@foresight.plannable
@tuning.tunable
def create(
    name: Annotated[str, typer.Argument(help="Host name of the server, unique in its project.")],
    *,
    image: Annotated[str | None, typer.Option(help="Name of a ready image.")] = None,
    plan: Annotated[str | None, typer.Option(help="Size: see `innkeeper plan list`.")] = None,
    disk: Annotated[
        int | None, typer.Option(min=1, help="Root disk in GiB, when other than the plan's.")
    ] = None,
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|-",
            help="Public key that may log in, repeatable. "
            "Default: your ~/.ssh/*.pub, else Innkeeper's own.",
        ),
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option(help="Package to install at first boot, repeatable.")
    ] = None,
    runcmd: Annotated[
        list[str] | None, typer.Option(help="Command to run at first boot, repeatable.")
    ] = None,
    user_data: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="cloud-config that is merged over ours, or a script."),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:K=V,…]", help="Ansible role to apply, repeatable."),
    ] = None,
    role_vars: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of role: {variable: value}.")
    ] = None,
    static_address: Annotated[
        bool, typer.Option("--static-address", help="Write the address into the guest, no DHCP.")
    ] = False,
    inbound: Inbound = None,
    outbound: Outbound = None,
    root_password: Annotated[
        bool,
        typer.Option("--root-password", help="Make one; `innkeeper server password` shows it."),
    ] = False,
    description: Annotated[str, typer.Option(help="Free text, shown in lists.")] = "",
    count: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Make NAME-1 to NAME-count.")
    ] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Create a server, or several of the same kind."""
    body: dict[str, Any] = {
        "ssh_keys": request.ssh_keys(ssh_key or []),
        "packages": package or [],
        "runcmd": runcmd or [],
        "roles": request.roles(role or [], role_vars),
        "static_address": static_address,
        "root_password": root_password,
        "description": description,
        **tuning.asked(),
    }
    chosen = {
        "image": image,
        "plan": plan,
        "disk_gib": disk,
        "inbound_kb": inbound,
        "outbound_kb": outbound,
    }
    if user_data is not None:
        chosen["user_data"] = request.text_of(user_data, "user-data")
    body |= {key: value for key, value in chosen.items() if value is not None}
    names = request.numbered(name, count)
    with connect() as client:

        def ask(server: str) -> Json:
            key = f"{idempotency_key}/{server}" if idempotency_key else None
            answer: Json = client.post(
                "/servers",
                {**body, "name": server},
                idempotency_key=key,
                project=project,
                **foresight.query(),
            )
            return answer

        operations, failures = accepted.each(names, ask, go_on=False)
        accepted.conclude(
            client, operations, failures, wait=wait, fmt=output, several=count is not None
        )
