"""Options and arguments that several commands share."""

from typing import Annotated

import typer

from innkeeper.cli.completion import servers
from innkeeper.cli.output import Format

Output = Annotated[Format, typer.Option("--output", "-o", help="How to print: table or json.")]
Project = Annotated[
    str | None,
    typer.Option(
        "--project",
        envvar="INNKEEPER_PROJECT",
        help="Name of the project; keys that are bound to one need none.",
    ),
]
Wait = Annotated[
    bool, typer.Option("--wait", "-w", help="Wait for the end and show each step as it happens.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Repeatable = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        help="Any text; the same request with the same text is carried out only once.",
    ),
]
Inbound = Annotated[int | None, typer.Option(min=1, help="Most kilobytes a second to the guest.")]
Outbound = Annotated[
    int | None, typer.Option(min=1, help="Most kilobytes a second from the guest.")
]
ServerName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name or id of the server.", autocompletion=servers)
]
ServerNames = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="Names or ids of servers.", autocompletion=servers),
]
