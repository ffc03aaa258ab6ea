from typing import Any

import pytest

from innkeeper.contracts import IMPORT_IMAGE, RECONCILE, deployment_name
from innkeeper.dispatch import Starter
from innkeeper.domain.lifecycle import Verb

NAMES = [*(deployment_name(verb) for verb in Verb), RECONCILE, IMPORT_IMAGE]


@pytest.fixture(scope="module")
def first(prefect_server: str) -> Any:
    """What the first run said."""
    from deployments import deploy  # noqa: PLC0415 - Prefect reads the environment then

    return deploy, deploy.asyncio.run(deploy.apply(process_pool=True))


@pytest.fixture(scope="module")
def ask(prefect_server: str) -> Any:
    starter = Starter(prefect_server)
    yield starter._send
    starter.close()


def test_all_that_dispatch_starts_is_deployed(first: Any, ask: Any) -> None:
    assert first[1].failures == []
    for name in NAMES:
        found = ask("GET", f"/deployments/name/{name}").json()
        assert (found["work_pool_name"], found["enforce_parameter_schema"]) == ("innkeeper", True)
        assert found["description"]
        twin = ask("GET", f"/deployments/name/{name}-process").json()
        assert (twin["work_pool_name"], twin["schedules"]) == ("innkeeper-process", [])


def test_the_second_run_changes_nothing(first: Any) -> None:
    deploy, before = first
    again = deploy.asyncio.run(deploy.apply(process_pool=True))
    assert again.changes == []
    assert again.kept >= len(before.changes)


def test_the_form_is_made_from_the_request(first: Any, ask: Any) -> None:
    found = ask("GET", f"/deployments/name/{deployment_name(Verb.CREATE)}").json()
    form = found["parameter_openapi_schema"]
    assert {"name", "image", "plan", "ssh_keys"} <= set(
        form["definitions"]["ServerRequest"]["properties"]
    )
    assert form["properties"]["request"]["description"]
    found = ask("GET", f"/deployments/name/{deployment_name(Verb.STOP)}").json()
    assert "server" in found["parameter_openapi_schema"]["properties"]


def test_reconcile_is_scheduled_every_minute(first: Any, ask: Any) -> None:
    found = ask("GET", f"/deployments/name/{RECONCILE}").json()
    assert [s["schedule"]["interval"] for s in found["schedules"]] == [60]
    assert (
        ask("GET", f"/deployments/name/{IMPORT_IMAGE}").json()["global_concurrency_limit"]["limit"]
        == 2
    )


def test_what_strayed_is_put_right_and_what_somebody_switched_off_stays_off(
    first: Any, ask: Any
) -> None:
    deploy, _ = first
    automations = ask("POST", "/automations/filter", {}).json()
    assert len(automations) == 2
    silent = next(a for a in automations if "silent" in a["name"])
    other = next(a for a in automations if a is not silent)
    ask("PATCH", f"/automations/{other['id']}", {"enabled": False})
    strayed = {k: v for k, v in silent.items() if k not in {"id", "created", "updated"}}
    strayed["description"] = "somebody wrote this"
    ask("PUT", f"/automations/{silent['id']}", strayed)
    ask("PATCH", _path(ask), {"version": "by hand", "description": "by hand"})
    report = deploy.asyncio.run(deploy.apply())
    assert len(report.changes) == 2, report.changes
    after = {a["id"]: a for a in ask("POST", "/automations/filter", {}).json()}
    assert after[silent["id"]]["description"] == silent["description"]
    assert not after[other["id"]]["enabled"]
    assert ask("GET", _path(ask)).json()["description"] != "by hand"


def _path(ask: Any) -> str:
    found = ask("GET", f"/deployments/name/{deployment_name(Verb.START)}").json()
    return f"/deployments/{found['id']}"
