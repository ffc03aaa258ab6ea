"""`--dry-run` and `--as-planned`: commands that make an operation, or delete a disk, have both."""

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from innkeeper.cli import output
from innkeeper.cli.client import Json
from innkeeper.cli.lookup import parsed
from innkeeper.cli.output import Format
from innkeeper.services.views import ChangePlan, HostRoom, QuotaRoom

P = ParamSpec("P")
R = TypeVar("R")

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan of what would be done, and do nothing.")
]
AsPlanned = Annotated[
    str | None,
    typer.Option(
        metavar="DIGEST", help="Do it only if all is as in the plan with this digest (a dry run's)."
    ),
]
_OPTIONS = (("dry_run", DryRun, False), ("as_planned", AsPlanned, None))
_query: ContextVar[Json] = ContextVar("foresight", default={})  # noqa: B039 - never changed


def plannable(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command both options; `query` passes them on."""

    @wraps(command)
    def planned(*args: P.args, **kwargs: P.kwargs) -> R:
        dry_run, digest = kwargs.pop("dry_run", False), kwargs.pop("as_planned", None)
        token = _query.set({"dry_run": dry_run or None, "plan": digest})
        try:
            return command(*args, **kwargs)
        finally:
            _query.reset(token)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, kind, default in _OPTIONS
    ]
    parameters = [*signature.parameters.values(), *added]
    planned.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    planned.__annotations__ = command.__annotations__ | {name: kind for name, kind, _ in _OPTIONS}
    return planned


def query() -> dict[str, Any]:
    """Return the query parameters of the command that runs."""
    return dict(_query.get())


def dry_run() -> bool:
    """Tell whether the command that runs only shows a plan."""
    return bool(_query.get().get("dry_run"))


def show(plans: list[Json], fmt: Format, *, several: bool) -> None:
    """Print plans."""
    if fmt is Format.JSON:
        if plans or several:
            output.emit_json(plans if several else plans[0])
        return
    for plan in plans:
        _show(parsed(ChangePlan, plan))


def _show(plan: ChangePlan) -> None:
    subject = plan.server or ", ".join(change.subject for change in plan.changes)
    typer.echo(f"{subject}: plan to {plan.verb}; nothing was done")
    output.emit_table(
        ("EFFECT", "SUBJECT", "BEFORE", "AFTER"),
        [(one.effect, one.subject, one.before or "-", one.after or "-") for one in plan.changes],
    )
    output.emit_details(
        [
            ("interruption", plan.interruption),
            (f"free on {plan.host.name} then", _room(plan.host)) if plan.host else ("host", None),
            ("quota left then", _left(plan.quota)),
            *(("warning", warning) for warning in plan.warnings),
            ("digest", plan.digest),
        ]
    )
    output.say(f"  have just that done: the same command with --as-planned {plan.digest}")


def _room(host: HostRoom) -> str:
    return f"{host.free_vcpus} vCPU, {host.free_memory_mib} MiB, {host.free_disk_gib} GiB"


def _left(quota: QuotaRoom) -> str:
    amounts = (
        (quota.servers, "servers"),
        (quota.vcpus, "vCPU"),
        (quota.memory_mib, "MiB"),
        (quota.disk_gib, "GiB"),
        (quota.snapshots, "snapshots"),
        (quota.snapshot_gib, "GiB of snapshots"),
        (quota.isolated_networks, "isolated networks"),
    )
    limited = [f"{amount} {noun}" for amount, noun in amounts if amount is not None]
    return ", ".join(limited) or "no limit"
