"""`innkeeper demo`: from a machine that was set up to a server that one can log in to."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from innkeeper.cli.client import Client, Json
from innkeeper.cli.client import connect as connect_api
from innkeeper.cli.failures import OperationFailed
from innkeeper.cli.login import parsed_server, ssh_argv
from innkeeper.lab import images as guests
from innkeeper.lab.fleet import Lab
from innkeeper.settings import settings
from innkeeper.stack import lifecycle
from innkeeper.stack.hooks import deploy, migrate
from innkeeper.stack.progress import Progress, printed, step

SERVER = "demo"
HOST_MEMORY_MIB = 4096
POLL_SECONDS = 0.3
IMAGE_SECONDS = 300.0
_WAKING = {"stopped": "start", "suspended": "resume", "shelved": "unshelve"}


def command(
    hosts: Annotated[int, typer.Option(min=1, max=9, help="How many lab hosts.")] = 2,
    image: Annotated[str, typer.Option(help="Guest: tiny, or debian with cloud-init.")] = "tiny",
) -> None:
    """Show it all: stack, lab, image, and a server that one can log in to."""
    progress = printed()
    begun = time.monotonic()
    lifecycle.up(progress=progress, hooks=lifecycle.Hooks(migrate=migrate, deploy=deploy))
    settings.cache_clear()
    with connect_api() as client:
        _lab(client, hosts, progress)
        ready = _image(client, image, progress)
        server = _server(client, image, ready, progress)
    _tell(server, time.monotonic() - begun)


def _lab(client: Client, count: int, progress: Progress) -> None:
    with step(progress, "lab", f"starting {count} disposable libvirt hosts") as now:
        lab = Lab().up(count)
        known = {host["name"] for host in client.items("/hosts")}
        for host in lab:
            if host.name not in known:
                progress("lab", f"adding {host.name}: proving its accelerator", None)
                body: Json = {
                    "name": host.name,
                    "uri": host.uri,
                    "channel": host.channel_address,
                    "edge_address": host.edge_address,
                    "pool_path": host.pool_path,
                    "memory_mib": HOST_MEMORY_MIB,
                }
                client.post("/hosts", body)
        now.text = f"{len(lab)} libvirt hosts: " + ", ".join(host.name for host in lab)


def current_image(name: str, built: str, images: Mapping[str, Json]) -> str:
    """Return the name that the image of a file is to have, `name` if it is free or has the file.

    A file is named after its recipe. What an earlier version built keeps its name, for servers may
    stand on it.
    """
    there = images.get(name)
    if there is None or there["phase"] != "ready" or Path(there["source"]).name == Path(built).name:
        return name
    return Path(built).stem


def _image(client: Client, name: str, progress: Progress) -> str:
    with step(progress, "guest", f"building the guest image '{name}'") as now:
        path = guests.ensure_image(name, lambda text, _: progress("guest", text, None))
        now.text = f"image '{name}', {path.stat().st_size >> 20} MiB"
    with step(progress, "import", f"importing '{name}'") as now:
        images = {entry["name"]: entry for entry in client.items("/images")}
        name = current_image(name, str(path), images)
        current = images.get(name)
        if current is None or current["phase"] == "failed":
            current = client.post("/images", {"name": name, "source": str(path)})
        deadline = time.monotonic() + IMAGE_SECONDS
        while current["phase"] not in {"ready", "failed"} and time.monotonic() < deadline:
            progress("import", f"{current['phase']}, {current['progress']:.0%}", None)
            time.sleep(POLL_SECONDS)
            current = client.get(f"/images/{current['id']}")
        if current["phase"] != "ready":
            raise OperationFailed("The image was not imported", str(current["error"]))
        now.text = f"'{name}' is {current['phase']}, sha256 {current['sha256'][:16]}…"
    return name


def _server(client: Client, kind: str, image: str, progress: Progress) -> Json:
    name = SERVER if kind == "tiny" else f"{SERVER}-{kind}"
    with step(progress, "server", f"creating '{name}'") as now:
        found = [s for s in client.items("/servers", name=name) if s["name"] == name]
        if found and found[0]["status"] == "error":
            _carry(client, client.delete(f"/servers/{found[0]['id']}"), progress)
            found = []
        if not found:
            plan = "tiny" if kind == "tiny" else "small"
            body: Json = {"name": name, "image": image, "plan": plan}
            operation = _carry(client, client.post("/servers", body), progress)
            server_id = operation["server_id"]
        else:
            server_id = found[0]["id"]
            held = found[0]["operation_id"]
            if held:
                _carry(client, client.get(f"/operations/{held}"), progress)
            elif verb := _WAKING.get(found[0]["status"]):
                _carry(client, client.post(f"/servers/{server_id}/actions/{verb}"), progress)
        server: Json = client.get(f"/servers/{server_id}")
        now.text = f"'{name}' is {server['status']} on {server['host']}"
    return server


def _carry(client: Client, operation: Json, progress: Progress) -> Json:
    """Follow an operation to its end.

    Raises:
        OperationFailed: it did not succeed; the text is its error.
    """
    while operation["phase"] in {"queued", "running"}:
        steps, names = operation["steps"], operation["step_names"]
        if steps:
            at = f"step {len(steps)} of {len(names)}, {steps[-1]['name']}"
            progress("server", f"{operation['verb']}: {at}", None)
        time.sleep(POLL_SECONDS)
        operation = client.get(f"/operations/{operation['id']}")
    if operation["phase"] != "succeeded":
        raise OperationFailed(f"{operation['verb']} has {operation['phase']}", operation["error"])
    return operation


def _tell(server: Json, seconds: float) -> None:
    login = shlex.join(ssh_argv(parsed_server(server), []))
    typer.echo(
        f"""
Ready in {seconds:.0f} s.

  log in      {login}
  Prefect UI  {settings().prefect_api_url.removesuffix("/api")}
  API         {settings().api_url}/api/v1   (key in {settings().home / "admin.key"})
  next        .venv/bin/innkeeper server list
  stop it     make down
"""
    )
