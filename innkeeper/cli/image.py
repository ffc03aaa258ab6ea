"""`innkeeper image …`."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from innkeeper.cli import lookup
from innkeeper.cli import output as out
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.failures import OperationFailed
from innkeeper.cli.options import Output, Wait, Yes
from innkeeper.cli.output import Format
from innkeeper.services.views import ImageView

app = typer.Typer(no_args_is_help=True, help="Images: what servers are made from.")

ImageName = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the image.")]
POLL_SECONDS = 0.5
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")


@app.command("import")
def import_image(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    source: Annotated[str, typer.Argument(help="URL, or a file on the machine of the API.")],
    *,
    sha256: Annotated[
        str | None, typer.Option(help="Expected checksum; anything else is refused.")
    ] = None,
    login_user: Annotated[
        str | None, typer.Option(help="User that people log in as. Default: debian.")
    ] = None,
    firmware: Annotated[
        str | None, typer.Option(help="What the image boots by: bios or uefi. Default: bios.")
    ] = None,
    wait: Wait = False,
    output: Output = Format.TABLE,
) -> None:
    """Import an image: fetch, check, convert to qcow2. Unusable until it is ready."""
    place = source if _URL.match(source) else str(Path(source).expanduser().resolve())
    chosen = {"name": name, "source": place, "sha256": sha256, "login_user": login_user}
    chosen["firmware"] = firmware
    with connect() as client:
        found: Json = client.post("/images", {k: v for k, v in chosen.items() if v is not None})
        if wait:
            found = _followed(client, found)
    _print_one(found, output)
    if wait and found["phase"] == "failed":
        raise OperationFailed(f"Import of {name} failed", found.get("error") or "")


@app.command("list")
def list_images(output: Output = Format.TABLE) -> None:
    """List images and how far their imports are."""
    with connect() as client:
        found = list(client.items("/images"))
    if output is Format.JSON:
        out.emit_json(found)
        return
    images = [lookup.parsed(ImageView, entry) for entry in found]
    out.emit_table(
        ("NAME", "PHASE", "PROGRESS", "SIZE", "VIRTUAL", "LOGIN", "SHA256", "SOURCE"),
        [
            (
                image.name,
                image.phase,
                "" if image.phase in {"ready", "failed"} else f"{image.progress:.0%}",
                out.size(image.size_bytes),
                out.size(image.virtual_size_bytes),
                image.login_user,
                (image.sha256 or "")[:16],
                image.source,
            )
            for image in images
        ],
    )


@app.command()
def show(name: ImageName, output: Output = Format.TABLE) -> None:
    """Show an image."""
    with connect() as client:
        found = lookup.named(client, "image", name)
    _print_one(found, output)


@app.command()
def delete(name: ImageName, yes: Yes = False) -> None:
    """Delete an image; refused while servers are made from it."""
    out.confirm(f"Delete the image {name}?", yes=yes)
    with connect() as client:
        client.delete(f"/images/{lookup.named(client, 'image', name)['id']}")
    typer.echo(f"{name} is deleted")


def _followed(client: Client, image: Json) -> Json:
    last = image
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task(image["name"], total=1.0)
            for last in _states(client, image["id"]):
                about = f"{image['name']} {last['phase']}"
                bars.update(task, completed=last["progress"] or 0.0, description=about)
        return last
    phase = ""
    for last in _states(client, image["id"]):
        if last["phase"] != phase:
            phase = last["phase"]
            out.say(f"{image['name']}: {phase}")
    return last


def _states(client: Client, image_id: str) -> Iterator[Json]:
    while True:
        image: Json = client.get(f"/images/{image_id}")
        yield image
        if image["phase"] in {"ready", "failed"}:
            return
        time.sleep(POLL_SECONDS)


def _print_one(found: Json, output: Format) -> None:
    if output is Format.JSON:
        out.emit_json(found)
        return
    image = lookup.parsed(ImageView, found)
    out.emit_details(
        [
            ("name", image.name),
            ("id", image.id),
            ("phase", image.phase),
            ("progress", None if image.phase == "ready" else f"{image.progress:.0%}"),
            ("error", image.error),
            ("source", image.source),
            ("sha256", image.sha256),
            ("expected", image.expected_sha256),
            ("size", out.size(image.size_bytes)),
            ("virtual size", out.size(image.virtual_size_bytes)),
            ("login user", image.login_user),
            ("firmware", image.firmware),
        ]
    )
