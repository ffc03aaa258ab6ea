"""The command `innkeeper`: what it is made of, and the way in."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from innkeeper.cli.lazy import COMMANDS, LazyGroup, Mounted

EPILOG = """\
Exit codes: 0 done · 1 the operation failed · 2 wrong usage or invalid request · 3 not found ·
4 refused (quota, conflict, no host, rate) · 5 the API cannot be reached or is at fault ·
6 no valid key, or not allowed.

Environment: INNKEEPER_API_URL (default: this machine's stack), INNKEEPER_API_KEY (default: the
admin key of this machine's stack), INNKEEPER_PROJECT.
"""

_DAILY, _CATALOGUE, _MACHINE = "Servers", "What servers stand on", "This machine"
COMMANDS.update(
    {
        "server": Mounted("server", "app", "Create, list, operate and delete servers.", _DAILY),
        "create": Mounted("create", "create", "Short for `server create`.", _DAILY),
        "clone": Mounted("clone", "clone", "Short for `server clone`.", _DAILY),
        "list": Mounted("server", "list_servers", "Short for `server list`.", _DAILY),
        "ssh": Mounted("server", "ssh", "Short for `server ssh`.", _DAILY),
        "delete": Mounted("server", "delete", "Short for `server delete`.", _DAILY),
        "disk": Mounted("disk", "app", "Attach, detach, grow and delete data disks.", _DAILY),
        "nic": Mounted("nic", "app", "Attach, detach and list network cards.", _DAILY),
        "snapshot": Mounted("snapshot", "app", "Take, revert to and delete snapshots.", _DAILY),
        "snapshot-policy": Mounted(
            "snapshot_policy", "app", "Have snapshots taken by themselves.", _DAILY
        ),
        "operation": Mounted("operation", "app", "Follow, look at and cancel operations.", _DAILY),
        "event": Mounted("event", "app", "Read the audit trail.", _DAILY),
        "host": Mounted("host", "app", "Add, list and disable hosts.", _CATALOGUE),
        "image": Mounted("image", "app", "Import, list and delete images.", _CATALOGUE),
        "plan": Mounted("plan", "app", "List and create sizes.", _CATALOGUE),
        "role": Mounted("role", "app", "List the Ansible roles.", _CATALOGUE),
        "project": Mounted("project", "app", "List and create projects, set quotas.", _CATALOGUE),
        "key": Mounted("key", "app", "Create, list and revoke API keys.", _CATALOGUE),
        "demo": Mounted("demo", "command", "Show it all: from nothing to a login.", _MACHINE),
        "stack": Mounted("stack", "app", "Start, stop and inspect the programs.", _MACHINE),
        "lab": Mounted("lab", "app", "Disposable libvirt hosts.", _MACHINE),
        "doctor": Mounted("doctor", "command", "Check this machine, say what to fix.", _MACHINE),
    }
)

app = typer.Typer(
    cls=LazyGroup,
    name="innkeeper",
    no_args_is_help=True,
    epilog=EPILOG,
    pretty_exceptions_show_locals=False,  # locals may hold secrets
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(version("innkeeper"))
    except PackageNotFoundError:
        typer.echo("unknown: not installed, run from a checkout")
    raise typer.Exit


@app.callback()
def innkeeper(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Provision and look after virtual machines on your own hosts."""


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes."""
    app(prog_name="innkeeper")
