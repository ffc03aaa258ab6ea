"""`innkeeper host …`."""

import time
from typing import Annotated

import typer

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Json, connect
from innkeeper.cli.failures import OperationFailed
from innkeeper.cli.options import Output, Wait
from innkeeper.cli.output import Format
from innkeeper.services.views import DrainView, HostView

app = typer.Typer(no_args_is_help=True, help="Hosts: machines whose libvirt takes servers.")

POLL_SECONDS = 1.0
PROBE_SECONDS = 300.0
"""How long adding a host may take: its accelerator is proved by running a guest."""

HostName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the host.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    uri: Annotated[str, typer.Argument(help="libvirt URI, e.g. qemu+ssh://root@h1/system.")],
    *,
    channel: Annotated[
        str | None,
        typer.Option(help="How to run commands there: local:, ssh://user@host:port, lab://NAME."),
    ] = None,
    edge_address: Annotated[
        str | None, typer.Option(help="Address under which its forwards are reached.")
    ] = None,
    pool_path: Annotated[str | None, typer.Option(help="Folder for disks on the host.")] = None,
    vcpus: Annotated[int | None, typer.Option(min=1, help="Offer only so many.")] = None,
    memory_mib: Annotated[int | None, typer.Option(min=1, help="Offer only so much.")] = None,
    disk_gib: Annotated[int | None, typer.Option(min=1, help="Offer only so much.")] = None,
    cpu_overcommit: Annotated[float | None, typer.Option(help="Default 2.0.")] = None,
    memory_overcommit: Annotated[float | None, typer.Option(help="Default 1.0.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Add a host; its libvirt is asked for its size now."""
    chosen = {
        "name": name,
        "uri": uri,
        "channel": channel,
        "edge_address": edge_address,
        "pool_path": pool_path,
        "vcpus": vcpus,
        "memory_mib": memory_mib,
        "disk_gib": disk_gib,
        "cpu_overcommit": cpu_overcommit,
        "memory_overcommit": memory_overcommit,
    }
    with connect() as client:
        body = {key: value for key, value in chosen.items() if value is not None}
        found = client.post("/hosts", body, patience=PROBE_SECONDS)
    _print_one(found, output)


@app.command("list")
def list_hosts(output: Output = Format.TABLE) -> None:
    """List hosts and how full they are."""
    with connect() as client:
        found = list(client.items("/hosts"))
    if output is Format.JSON:
        out.emit_json(found)
        return
    hosts = [lookup.parsed(HostView, entry) for entry in found]
    out.emit_table(
        ("NAME", "STATE", "SERVERS", "VCPUS", "MEMORY MIB", "DISK GIB", "TYPE", "EDGE", "URI"),
        [
            (
                host.name,
                _state(host),
                host.servers,
                f"{host.reserved_vcpus}/{host.vcpus * host.cpu_overcommit:g}",
                f"{host.reserved_memory_mib}/{host.memory_mib * host.memory_overcommit:g}",
                f"{host.reserved_disk_gib}/{host.disk_gib}",
                host.virt_type,
                host.edge_address,
                host.uri,
            )
            for host in hosts
        ],
    )


@app.command()
def show(name: HostName, output: Output = Format.TABLE) -> None:
    """Show a host."""
    with connect() as client:
        found = lookup.named(client, "host", name)
    _print_one(found, output)


@app.command()
def enable(name: HostName, output: Output = Format.TABLE) -> None:
    """Let placement choose the host again."""
    _set_enabled(name, output, enabled=True)


@app.command()
def disable(name: HostName, output: Output = Format.TABLE) -> None:
    """Place nothing new on the host; what runs there goes on."""
    _set_enabled(name, output, enabled=False)


@app.command()
def bridges(
    name: HostName,
    allowed: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BRIDGE]...", help="A VLAN's is called BRIDGE.TAG."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Allow network cards on these bridges of the host, and on no others; cards there stay."""
    with connect() as client:
        host_id = lookup.named(client, "host", name)["id"]
        found = client.patch(f"/hosts/{host_id}", {"bridges": allowed or []})
    _print_one(found, output)


@app.command()
def pools(
    name: HostName,
    allowed: Annotated[
        list[str] | None,
        typer.Argument(metavar="[POOL[=GIB]]...", help="Without a size all that the pool has."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Allow data disks in these further storage pools of the host, and in no others."""
    wanted = {}
    for entry in allowed or []:
        pool, _, gib = entry.partition("=")
        if gib and not gib.isdecimal():
            raise typer.BadParameter(f"'{entry}' has no size in GiB", param_hint="POOL[=GIB]")
        wanted[pool] = int(gib or 0)
    with connect() as client:
        host_id = lookup.named(client, "host", name)["id"]
        found = client.patch(f"/hosts/{host_id}", {"pools": wanted})
    _print_one(found, output)


@app.command()
def drain(
    name: HostName,
    *,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="How many move at once.")] = 2,
    allow_power_cycle: Annotated[
        bool, typer.Option("--allow-power-cycle", help="Off and on, where it cannot be done live.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show where each server would go.")
    ] = False,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Place nothing new on the host, and migrate what runs there; `enable` takes it back."""
    body: Json = {"parallel": parallel, "allow_power_cycle": allow_power_cycle}
    with connect() as client:
        path = f"/hosts/{lookup.named(client, 'host', name)['id']}/drain"
        query: Json = {"dry_run": True} if dry_run else {}
        found = client.post(path, body, **query)
        while wait and found["phase"] == "running":
            time.sleep(POLL_SECONDS)
            found = client.get(path)
    if output is Format.JSON:
        out.emit_json(found)
    else:
        _print_drain(lookup.parsed(DrainView, found))
    if found["phase"] == "incomplete":
        staying = [one["server"] for one in found["servers"] if one["state"] == "stays"]
        raise OperationFailed(f"{name} is not empty", f"These stay: {', '.join(staying)}.")


def _print_drain(view: DrainView) -> None:
    typer.echo(f"{view.host}: drain {view.phase}")
    rows = [
        (one.server, one.state, one.host or "-", one.interruption or "-", one.reason or "-")
        for one in view.servers
    ]
    out.emit_table(("SERVER", "STATE", "HOST", "INTERRUPTION", "WHY"), rows)


@app.command()
def remove(name: HostName) -> None:
    """Forget a host; refused while servers live there."""
    with connect() as client:
        client.delete(f"/hosts/{lookup.named(client, 'host', name)['id']}")
    typer.echo(f"{name} is removed")


def _set_enabled(name: str, output: Format, *, enabled: bool) -> None:
    with connect() as client:
        host_id = lookup.named(client, "host", name)["id"]
        found = client.patch(f"/hosts/{host_id}", {"enabled": enabled})
    _print_one(found, output)


def _state(host: HostView) -> str:
    if not host.enabled:
        return "disabled"
    return "up" if host.reachable else "unreachable"


def _pools(host: HostView) -> list[str]:
    used = host.reserved_pools
    return [f"{name} {used.get(name, 0)} of {gib} GiB" for name, gib in host.pools.items()]


def _print_one(found: Json, output: Format) -> None:
    if output is Format.JSON:
        out.emit_json(found)
        return
    host = lookup.parsed(HostView, found)
    memory = f"{host.reserved_memory_mib} of {host.memory_mib} MiB"
    out.emit_details(
        [
            ("name", host.name),
            ("id", host.id),
            ("state", _state(host)),
            ("uri", host.uri),
            ("channel", host.channel),
            ("edge address", host.edge_address),
            ("pool", host.pool_path),
            ("type", host.virt_type),
            ("bridges", ", ".join(host.bridges) or None),
            ("UEFI guests", "yes" if host.uefi else "no firmware for them"),
            ("further pools", ", ".join(_pools(host)) or None),
            ("vcpus", f"{host.reserved_vcpus} of {host.vcpus} (x {host.cpu_overcommit:g})"),
            ("memory", f"{memory} (x {host.memory_overcommit:g})"),
            ("disk", f"{host.reserved_disk_gib} of {host.disk_gib} GiB"),
            ("servers", host.servers),
        ]
    )
