"""The options of a server's fine print; commands that make or resize servers have them."""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from innkeeper.cli.client import Json
from innkeeper.services.views import ServerView

P = ParamSpec("P")
R = TypeVar("R")


class Strictness(StrEnum):
    """How NUMA nodes of memory are kept to."""

    STRICT = "strict"
    PREFERRED = "preferred"


_OPTIONS: tuple[tuple[str, str, str, Any], ...] = (
    (
        *("sockets", "cpu", "sockets"),
        Annotated[int | None, typer.Option(min=0, max=4, help="0: the host's choice.")],
    ),
    (
        *("threads", "cpu", "threads"),
        Annotated[
            int | None,
            typer.Option(min=0, max=2, help="Threads of each core; 0: the host's choice."),
        ],
    ),
    (
        *("cpu_model", "cpu", "model"),
        Annotated[str | None, typer.Option(help="One that its host can give; '': the usual one.")],
    ),
    (
        *("cpu_shares", "cpu", "shares"),
        Annotated[
            int | None, typer.Option(min=0, max=10_000, help="Weight; 0: the host's default.")
        ],
    ),
    (
        *("cpu_limit", "cpu", "limit"),
        Annotated[
            int | None,
            typer.Option(min=0, max=100, help="Percent of a CPU for each vCPU; 0: all."),
        ],
    ),
    (
        *("pin", "cpu", "pin"),
        Annotated[
            str | None, typer.Option(help="Host CPUs that it runs on, like '0-2,5'; '': any.")
        ],
    ),
    (
        *("cpu_nodes", "cpu", "nodes"),
        Annotated[
            str | None, typer.Option(help="NUMA nodes whose CPUs it runs on, no --pin; '': any.")
        ],
    ),
    (
        *("hugepages", "memory", "hugepages"),
        Annotated[
            int | None,
            typer.Option(min=0, help="MiB of the pages that its memory is made of; 0: usual ones."),
        ],
    ),
    (
        *("memory_nodes", "memory", "nodes"),
        Annotated[str | None, typer.Option(help="NUMA nodes that its memory lies on; '': any.")],
    ),
    (
        *("memory_mode", "memory", "mode"),
        Annotated[
            Strictness | None, typer.Option(help="On these nodes only, or elsewhere when full.")
        ],
    ),
    (
        *("balloon", "memory", "balloon"),
        Annotated[
            bool | None,
            typer.Option("--balloon/--no-balloon", help="Memory may change while it runs."),
        ],
    ),
    (
        *("memory_soft_limit", "memory", "soft_limit"),
        Annotated[
            int | None,
            typer.Option(min=0, help="MiB beyond which its host takes memory back; 0: none."),
        ],
    ),
)
_asked: ContextVar[Json] = ContextVar("tuning", default={})  # noqa: B039 - never changed


def tunable(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options of the fine print; `asked` is what was given of them."""

    @wraps(command)
    def tuned(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Json = {}
        for option, part, name, _ in _OPTIONS:
            if (value := kwargs.pop(option, None)) is not None:
                given.setdefault(part, {})[name] = value
        token = _asked.set(given)
        try:
            return command(*args, **kwargs)
        finally:
            _asked.reset(token)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for option, _, _, kind in _OPTIONS
    ]
    parameters = [*signature.parameters.values(), *added]
    tuned.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    kinds = {option: kind for option, _, _, kind in _OPTIONS}
    tuned.__annotations__ = command.__annotations__ | kinds
    return tuned


def details(server: ServerView) -> list[tuple[str, str | None]]:
    """Return what a server has of a fine print, as `server show` tells it."""
    parts: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("cpu", server.cpu),
        ("memory", server.memory),
    )
    return [
        (part, ", ".join(f"{name} {value}" for name, value in fine.items()) or None)
        for part, fine in parts
    ]


def asked() -> Json:
    """Return the parts `cpu` and `memory` of a request, those that something was given of."""
    return dict(_asked.get())
