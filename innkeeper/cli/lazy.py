"""A group of commands that imports a command's module only when that command is used.

`innkeeper --help` and completion then need none of the modules behind the commands.
"""

from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from innkeeper.cli.failures import CliFailure, exit_code_of
from innkeeper.errors import InnkeeperError


class Mounted(NamedTuple):
    """Where a command lives: a Typer sub-app, or a function, of a module of this package."""

    module: str
    attribute: str
    help: str
    panel: str


COMMANDS: dict[str, Mounted] = {}
"""Filled by `innkeeper.cli.main`, in the order of the help."""


class LazyGroup(TyperGroup):
    """Lists stand-ins, loads the real command to run it, and prints failures as sentences."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, mounted in COMMANDS.items():
            self.add_command(
                TyperCommand(name=name, help=mounted.help, rich_help_panel=mounted.panel)
            )

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help, not of the alphabet."""
        del ctx
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the real command that the words name, and what is left of them."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            command = load(name)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error that was raised on purpose becomes a sentence."""
        try:
            return super().invoke(ctx)
        except InnkeeperError as error:
            report(error)
            raise typer.Exit(exit_code_of(error)) from error


def load(name: str) -> Any:
    """Import the module of a command and return the command."""
    mounted = COMMANDS[name]
    target = getattr(import_module(f"innkeeper.cli.{mounted.module}"), mounted.attribute)
    # An outer group gives a sub-app or a function its name here without completion options.
    outer = typer.Typer(add_completion=False)
    outer.callback()(lambda: None)
    if isinstance(target, typer.Typer):
        outer.add_typer(target, name=name)
    else:
        outer.command(name, context_settings=getattr(target, "context_settings", None))(target)
    group: Any = get_command(outer)
    return group.commands[name]


def report(error: InnkeeperError) -> None:
    """Print an error on stderr: its title, then cause and next step."""
    heading = error.heading if isinstance(error, CliFailure) else error.title
    detail = error.detail if isinstance(error, CliFailure) else str(error)
    from innkeeper.cli.output import say  # noqa: PLC0415 - Rich is slow, and errors are rare

    say(f"Error: {heading}" + (f"\n{detail}" if detail and detail != heading else ""))
