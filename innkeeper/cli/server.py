"""`innkeeper server …`."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from innkeeper.cli import foresight, login, lookup, request, tuning
from innkeeper.cli import output as out
from innkeeper.cli.acting import act as _act
from innkeeper.cli.client import connect
from innkeeper.cli.clone import clone
from innkeeper.cli.create import create
from innkeeper.cli.failures import UsageFailure
from innkeeper.cli.migrate import migrate
from innkeeper.cli.options import (
    Limit,
    Output,
    Project,
    Repeatable,
    ServerName,
    ServerNames,
    Wait,
    Yes,
)
from innkeeper.cli.output import Format
from innkeeper.cli.resize import cancel_resize, change, resize
from innkeeper.cli.resources import resources
from innkeeper.domain.lifecycle import Status
from innkeeper.services.conditions import PendingResizeView
from innkeeper.services.views import ServerView

app = typer.Typer(no_args_is_help=True, help="Servers: create, look at, operate, delete.")
app.command()(create)
app.command()(resize)
app.command("cancel-resize")(cancel_resize)
app.command()(resources)
app.command()(migrate)
app.command("set")(change)
app.command()(clone)


@app.command("list")
def list_servers(
    *,
    status: Annotated[Status | None, typer.Option(help="Only servers in this state.")] = None,
    host: Annotated[str | None, typer.Option(help="Only servers on this host.")] = None,
    image: Annotated[str | None, typer.Option(help="Only servers of this image.")] = None,
    name: Annotated[str | None, typer.Option(help="Only names that contain this.")] = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones, too.")] = False,
    limit: Limit = 200,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """List servers, newest first."""
    with connect() as client:
        found = list(
            client.items(
                "/servers",
                limit=limit,
                status=status,
                host=host,
                image=image,
                name=name,
                include_deleted=deleted or None,
                project=project,
            )
        )
    if output is Format.JSON:
        out.emit_json(found)
        return
    servers = [login.parsed_server(entry) for entry in found]
    out.emit_table(
        ("NAME", "STATUS", "PROJECT", "HOST", "PLAN", "IMAGE", "ADDRESS", "SSH", "AGE"),
        [
            (
                *(one.name, one.status, one.project, one.host, one.plan, one.image, one.address),
                f"{one.edge_address}:{one.ssh_port}" if one.ssh_port else "",
                out.ago(one.created_at),
            )
            for one in servers
        ],
    )


@app.command()
def show(name: ServerName, project: Project = None, output: Output = Format.TABLE) -> None:
    """Show a server and what may be done to it now."""
    with connect() as client:
        found = lookup.server(client, name, project)
    if output is Format.JSON:
        out.emit_json(found)
        return
    server = login.parsed_server(found)
    out.emit_details(_details(server))


@app.command()
@foresight.plannable
def start(
    names: ServerNames,
    *,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Start stopped servers."""
    _act("start", names, {}, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def stop(
    names: ServerNames,
    *,
    agent_seconds: Annotated[
        float | None, typer.Option(min=0, help="Patience with the guest agent.")
    ] = None,
    acpi_seconds: Annotated[
        float | None, typer.Option(min=0, help="Patience with ACPI, before force.")
    ] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Stop servers: ask the guest, then press the power button, then pull the plug."""
    body = _patience(agent_seconds, acpi_seconds)
    _act("stop", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def reboot(
    names: ServerNames,
    *,
    hard: Annotated[bool, typer.Option("--hard", help="Pull the plug instead of asking.")] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Reboot running servers."""
    body = {"mode": "hard" if hard else "soft"}
    _act("reboot", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def suspend(
    names: ServerNames,
    *,
    pause: Annotated[
        bool, typer.Option("--pause", help="Keep the memory in the host's, not on its disk.")
    ] = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Suspend running servers: their memory is kept, nothing in them ends."""
    body = {"mode": "pause" if pause else "save"}
    _act("suspend", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def resume(
    names: ServerNames,
    *,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Wake suspended servers where they stood."""
    _act("resume", names, {}, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def shelve(
    names: ServerNames,
    *,
    agent_seconds: Annotated[
        float | None, typer.Option(min=0, help="Patience with the guest agent.")
    ] = None,
    acpi_seconds: Annotated[
        float | None, typer.Option(min=0, help="Patience with ACPI, before force.")
    ] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Stop servers; keep disks and snapshots on the shelf, their hosts have their room back."""
    body = _patience(agent_seconds, acpi_seconds)
    _act("shelve", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def unshelve(
    names: ServerNames,
    *,
    host: Annotated[str | None, typer.Option(help="A certain host; else what fits best.")] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Bring shelved servers back, with their addresses and forwards."""
    body = {"host": host} if host else {}
    _act("unshelve", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def rebuild(
    names: ServerNames,
    *,
    image: Annotated[str | None, typer.Option(help="Another ready image.")] = None,
    yes: Yes = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give servers a fresh root disk; identity and address stay, data on the disk is lost."""
    out.confirm(f"Erase the root disk of {', '.join(names)}?", yes=yes or foresight.dry_run())
    body = {"image": image} if image else {}
    _act("rebuild", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def flatten(
    names: ServerNames,
    *,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Make the disks of linked clones independent of their sources, while they run."""
    _act("flatten", names, {}, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def configure(
    names: ServerNames,
    *,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:K=V,…]", help="Ansible role to apply, repeatable."),
    ] = None,
    role_vars: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML of role: {variable: value}.")
    ] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Apply Ansible roles to running servers, for example to install applications."""
    body = {"roles": request.roles(role or [], role_vars)}
    _act("configure", names, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def delete(
    names: ServerNames,
    *,
    yes: Yes = False,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Delete servers with everything that is theirs."""
    out.confirm(f"Delete {', '.join(names)} and all their data?", yes=yes or foresight.dry_run())
    _act("delete", names, {}, idempotency_key, project, wait=wait, output=output)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    name: ServerName,
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run there, after --; else a shell.")
    ] = None,
    *,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", "-i", help="Private key. Default: yours, then Innkeeper's."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-l", help="User in the guest. Default: the image's.")
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the ssh command instead of running it.")
    ] = False,
    project: Project = None,
) -> None:
    """Log in to a server; its host key is known and checked. Options stand before NAME."""
    words = command or []
    if words[:1] == ["--"]:
        words = words[1:]
    with connect() as client:
        server = login.parsed_server(lookup.server(client, name, project))
    argv = login.ssh_argv(server, words, identity=identity, user=user)
    if only_print:
        typer.echo(shlex.join(argv))
        return
    try:
        os.execvp("ssh", argv)  # noqa: S606 - ssh takes this terminal over
    except FileNotFoundError as error:
        raise UsageFailure("No ssh here", "Install it: apt-get install openssh-client.") from error


@app.command()
def console(
    name: ServerName,
    *,
    lines: Annotated[int, typer.Option(min=1, max=10_000, help="How many, from the end.")] = 100,
    project: Project = None,
    output: Output = Format.TABLE,
) -> None:
    """Show what the serial console has said since the server was started last."""
    with connect() as client:
        server = lookup.server(client, name, project)
        answer = client.get(f"/servers/{server['id']}/console-log", lines=lines)
    if output is Format.JSON:
        out.emit_json(answer)
        return
    typer.echo(answer["output"], nl=False)


@app.command()
def password(name: ServerName, project: Project = None, output: Output = Format.TABLE) -> None:
    """Show the root password that was made on request. It is shown once, then forgotten."""
    with connect() as client:
        server = lookup.server(client, name, project)
        answer = client.post(f"/servers/{server['id']}/root-password")
    if output is Format.JSON:
        out.emit_json(answer)
        return
    typer.echo(answer["root_password"])


def _patience(agent_seconds: float | None, acpi_seconds: float | None) -> dict[str, float]:
    patience = {"agent_seconds": agent_seconds, "acpi_seconds": acpi_seconds}
    return {key: value for key, value in patience.items() if value is not None}


def _pending(waiting: PendingResizeView) -> list[tuple[str, object]]:
    return [
        ("resize that waits", f"{change.subject}: {change.before} -> {change.after}")
        for change in waiting.changes
    ]


def _details(server: ServerView) -> list[tuple[str, object]]:
    size = f"{server.vcpus} vCPU, {server.memory_mib} MiB, {server.disk_gib} GiB disk"
    return [
        ("name", server.name),
        ("id", server.id),
        ("status", server.status),
        ("fault", server.fault),
        ("operation", server.operation_id),
        ("project", server.project),
        ("host", server.host),
        ("image", server.image),
        ("plan", f"{server.plan} ({size})"),
        *tuning.details(server),
        *(
            ("data disk", f"{disk.name}, {disk.size_gib} GiB, {disk.device}")
            for disk in server.disks
        ),
        *((one.type, one.message) for one in server.conditions),
        *(_pending(server.pending_resize) if server.pending_resize else ()),
        ("address", server.address),
        ("mac", server.mac),
        *(
            ("network card", f"{nic.name}, {nic.mac}, {nic.address or 'DHCP'} on {nic.network}")
            for nic in server.nics[1:]
        ),
        ("ssh", login.command_line(server) if server.ssh_port else None),
        ("host key", server.host_key),
        ("description", server.description),
        ("maintenance", server.maintenance_window),
        ("root password", "not shown yet" if server.root_password_available else None),
        ("allowed now", ", ".join(server.allowed)),
        ("created", f"{server.created_at:%Y-%m-%d %H:%M:%S} ({out.ago(server.created_at)})"),
        ("deleted", server.deleted_at),
    ]
