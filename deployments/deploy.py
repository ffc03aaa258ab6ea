"""`python -m deployments.deploy`: brings pools, deployments, automations and limits up to date.

Idempotent: what is as described already is not touched, so schedules that somebody paused and runs
that wait stay as they are. A deployment's version is a digest of all that describes it.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from innkeeper.worker import environment

environment.prepare()  # before Prefect reads it

import prefect  # noqa: E402
from prefect import Flow  # noqa: E402
from prefect.client.orchestration import PrefectClient, get_client  # noqa: E402
from prefect.client.schemas.actions import (  # noqa: E402
    DeploymentScheduleCreate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.objects import ConcurrencyOptions  # noqa: E402
from prefect.client.schemas.schedules import construct_schedule  # noqa: E402
from prefect.events.schemas.automations import Automation, AutomationCore  # noqa: E402
from prefect.exceptions import ObjectNotFound  # noqa: E402
from prefect.flows import load_flow_from_entrypoint  # noqa: E402
from prefect.utilities.callables import parameter_schema  # noqa: E402
from prefect.workers.process import ProcessWorker  # noqa: E402

from innkeeper.worker.warm import WarmWorker  # noqa: E402

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
PROCESS_SUFFIX = "-process"


@dataclass
class Report:
    """What was done, to be shown: only changes are worth a line."""

    changes: list[str] = field(default_factory=list)
    kept: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, changed: bool, line: str) -> None:
        """Count a thing that was as described, or tell what became of it."""
        if changed:
            self.changes.append(line)
        else:
            self.kept += 1


async def apply(*, process_pool: bool = False) -> Report:
    """Bring the configured Prefect server up to date.

    Args:
        process_pool: also a pool for stock process workers, with the same flows as
            `<name>-process`, unscheduled.
    """
    report = Report()
    described = _read("prefect.yaml")["deployments"]
    async with get_client() as client:
        await _ensure_pool(client, environment.POOL, WarmWorker, report)
        wanted = [_warm(entry) for entry in described]
        if process_pool:
            await _ensure_pool(client, environment.PROCESS_POOL, ProcessWorker, report)
            wanted += [_process(entry) for entry in described]
        known: dict[str, UUID] = {}
        for entry in wanted:
            try:
                flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
            except Exception as error:  # noqa: BLE001 - the other flows are deployed all the same
                report.failures.append(f"{entry['entrypoint']} cannot be imported: {error!r}")
                continue
            name = f"{flow.name}/{entry['name']}"
            known[name] = await _ensure_deployment(client, flow, entry, report)
        for entry in _read("automations.yaml")["automations"]:
            await _ensure_automation(client, _with_deployments(entry, known), report)
        for tag, limit in _read("limits.yaml")["tags"].items():
            await _ensure_limit(client, tag, limit, report)
    return report


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((HERE / name).read_text())
    return document


async def _ensure_pool(client: PrefectClient, name: str, worker: type[Any], report: Report) -> None:
    template = worker.get_default_base_job_template()
    try:
        pool = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(name=name, type=worker.type, base_job_template=template)
        )
        report.note(changed=True, line=f"work pool {name} made")
        return
    if pool.type != worker.type:
        raise SystemExit(
            f"The work pool '{name}' exists with type '{pool.type}', not '{worker.type}': "
            f"delete it (`prefect work-pool delete {name}`) and run this again."
        )
    # What an operator has set for stock workers is theirs.
    outdated = worker is WarmWorker and pool.base_job_template != template
    if outdated:
        await client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    report.note(changed=outdated, line=name)


def _warm(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"work_pool": {"name": environment.POOL, "job_variables": {}}}


def _process(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the twin of a deployment that stock process workers run from this checkout."""
    kept = ("INNKEEPER_HOME", "DATABASE_URL", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    variables = {
        "working_dir": str(CHECKOUT),
        # A database's password belongs to the worker's environment, not into Prefect.
        "env": {"PYTHONPATH": str(CHECKOUT)}
        | {k: v for k in kept if (v := os.environ.get(k)) and "@" not in v},
    }
    twin = {k: v for k, v in entry.items() if k not in {"schedules", "concurrency_limit"}}
    return twin | {
        "name": entry["name"] + PROCESS_SUFFIX,
        "work_pool": {"name": environment.PROCESS_POOL, "job_variables": variables},
    }


async def _ensure_deployment(
    client: PrefectClient, flow: Flow[..., Any], entry: dict[str, Any], report: Report
) -> UUID:
    schema = parameter_schema(flow)
    version = _digest(entry, schema.model_dump(mode="json"), prefect.__version__)
    try:
        existing = await client.read_deployment_by_name(f"{flow.name}/{entry['name']}")
    except ObjectNotFound:
        existing = None
    if existing is not None and existing.version == version:
        report.note(changed=False, line=entry["name"])
        return existing.id
    limit = entry.get("concurrency_limit") or {}
    identifier = await client.create_deployment(
        flow_id=await client.create_flow(flow),
        name=entry["name"],
        version=version,
        description=entry.get("description"),
        tags=entry.get("tags", []),
        entrypoint=entry["entrypoint"],
        path=str(CHECKOUT),
        work_pool_name=entry["work_pool"]["name"],
        job_variables=entry["work_pool"]["job_variables"],
        parameter_openapi_schema=schema.model_dump(),
        enforce_parameter_schema=True,
        schedules=[_schedule(described) for described in entry.get("schedules", [])],
        concurrency_limit=limit.get("limit"),
        concurrency_options=(
            ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None
        ),
    )
    report.note(changed=True, line=f"deployment {flow.name}/{entry['name']} applied")
    return identifier


def _schedule(described: dict[str, Any]) -> DeploymentScheduleCreate:
    schedule = construct_schedule(
        interval=described["interval"],
        anchor_date=described["anchor_date"],
        timezone=described["timezone"],
    )
    return DeploymentScheduleCreate(schedule=schedule, slug=described["slug"], active=True)


def _digest(*parts: Any) -> str:
    told = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _with_deployments(entry: dict[str, Any], known: dict[str, UUID]) -> dict[str, Any]:
    """Return an automation whose actions name deployments by id."""
    actions = []
    for action in entry["actions"]:
        resolved = dict(action)
        if name := resolved.pop("deployment", None):
            resolved["deployment_id"] = str(known[name])
        actions.append(resolved)
    return entry | {"actions": actions}


async def _ensure_automation(client: PrefectClient, entry: dict[str, Any], report: Report) -> None:
    wanted = AutomationCore.model_validate(entry)
    existing = await client.read_automations_by_name(wanted.name)
    if not existing:
        await client.create_automation(wanted)
        report.note(changed=True, line=f"automation '{wanted.name}' made")
        return
    first, *doubles = existing
    for double in doubles:
        await client.delete_automation(double.id)
    same = _comparable(first) == _comparable(wanted)
    if not same:
        await client.update_automation(first.id, wanted)
    report.note(changed=not same or bool(doubles), line=f"automation '{wanted.name}' updated")


def _comparable(automation: Automation | AutomationCore) -> dict[str, Any]:
    """Return what describes an automation, without what the server adds.

    Whether it is enabled is left out: somebody may have switched it off.
    """
    told = AutomationCore.model_validate(automation.model_dump(mode="json"))
    described: dict[str, Any] = _without_ids(told.model_dump(mode="json", exclude={"enabled"}))
    return described


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_ids(v) for k, v in value.items() if k != "id"}
    if isinstance(value, list):
        items = [_without_ids(item) for item in value]
        # Lists of words are sets to Prefect: their order means nothing and changes.
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return value


async def _ensure_limit(client: PrefectClient, tag: str, limit: int, report: Report) -> None:
    try:
        existing = await client.read_concurrency_limit_by_tag(tag)
    except ObjectNotFound:
        existing = None
    if existing is None or existing.concurrency_limit != limit:
        await client.create_concurrency_limit(tag, limit)
    report.note(
        changed=existing is None or existing.concurrency_limit != limit,
        line=f"limit of tag {tag} set to {limit}",
    )


def main() -> int:
    """Apply and say what changed."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=__doc__)
    parser.add_argument(
        "--process-pool", action="store_true", help="also for stock process workers"
    )
    chosen = parser.parse_args()
    report = asyncio.run(apply(process_pool=chosen.process_pool))
    for line in report.changes:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(report.changes)} changed, {report.kept} as described\n")
    for line in report.failures:
        sys.stderr.write(f"{line}\n")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
