"""`innkeeper nic …`."""

from typing import Annotated

import typer

from innkeeper.cli import foresight, lookup
from innkeeper.cli import output as out
from innkeeper.cli.acting import act_on
from innkeeper.cli.client import Json, connect
from innkeeper.cli.options import (
    Inbound,
    Outbound,
    Output,
    Project,
    Repeatable,
    ServerName,
    Wait,
)
from innkeeper.cli.output import Format
from innkeeper.services.views import ServerView

app = typer.Typer(no_args_is_help=True, help="Network cards: attach, detach, list.")


@app.command()
@foresight.plannable
def attach(
    server: ServerName,
    *,
    name: Annotated[str, typer.Option(help="What to call it.")],
    isolated: Annotated[
        str | None,
        typer.Option(help="Name of an isolated network of the project; made with its first card."),
    ] = None,
    bridge: Annotated[
        str | None, typer.Option(help="A bridge of the host that its operator allows.")
    ] = None,
    vlan: Annotated[
        int | None, typer.Option(min=1, max=4094, help="Tag of a VLAN of that bridge.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="IPv4 address; on a bridge with its prefix (192.0.2.7/24).")
    ] = None,
    gateway: Annotated[str | None, typer.Option(help="On a bridge: the way out.")] = None,
    dns: Annotated[
        list[str] | None, typer.Option(help="On a bridge: a name server. Up to three.")
    ] = None,
    inbound: Inbound = None,
    outbound: Outbound = None,
    mac: Annotated[str | None, typer.Option(help="A locally administered one of yours.")] = None,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Give a server a further network card, while it runs; usually on the project's own network."""
    network = "vlan" if vlan is not None else "bridge" if bridge else "project"
    options = {
        "isolated": isolated,
        "bridge": bridge,
        "vlan": vlan,
        "address": address,
        "gateway": gateway,
        "dns": dns or None,
        "inbound_kb": inbound,
        "outbound_kb": outbound,
        "mac": mac,
    }
    body: Json = {"name": name, "network": "isolated" if isolated else network}
    body |= {key: value for key, value in options.items() if value is not None}
    act_on("attach-nic", server, body, idempotency_key, project, wait=wait, output=output)


@app.command()
@foresight.plannable
def detach(
    server: ServerName,
    nic: Annotated[str, typer.Argument(metavar="NIC", help="Name or id of the network card.")],
    *,
    idempotency_key: Repeatable = None,
    project: Project = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Take a further network card from a server, while it runs; the primary one stays."""
    body: Json = {"nic": nic}
    act_on("detach-nic", server, body, idempotency_key, project, wait=wait, output=output)


@app.command("list")
def list_nics(server: ServerName, project: Project = None, output: Output = Format.TABLE) -> None:
    """List the network cards of a server, the primary one first."""
    with connect() as client:
        found = lookup.server(client, server, project)
    if output is Format.JSON:
        out.emit_json(found["nics"])
        return
    out.emit_table(
        ("NAME", "PHASE", "KIND", "NETWORK", "MAC", "ADDRESS", "GATEWAY", "DNS", "KB/S IN/OUT"),
        [
            (
                *(nic.name, nic.phase, nic.kind, nic.network, nic.mac),
                *(nic.address or "", nic.gateway or "", " ".join(nic.dns)),
                f"{nic.inbound_kb or '-'}/{nic.outbound_kb or '-'}",
            )
            for nic in lookup.parsed(ServerView, found).nics
        ],
    )
