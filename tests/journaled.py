"""Claims as a run takes them, and what the database then holds."""

import importlib
from typing import Any
from uuid import UUID

from conftest import Catalogue
from sqlalchemy import select, text

from innkeeper.contracts import Claim
from innkeeper.db.models import Artifact, Base, OperationStep
from innkeeper.db.session import engine, transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.steps import STEPS, ArtifactKind
from innkeeper.errors import InnkeeperError
from innkeeper.services import accept, journal, operations
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.views import OperationView


def makes(blueprint: Blueprint) -> list[tuple[ArtifactKind, str]]:
    return [(ArtifactKind.VOLUME, blueprint.root_volume)]


def started(catalogue: Catalogue, name: str = "web") -> Claim:
    return journal.claim(catalogue.create(name).id)


def ask(verb: Verb, server_id: UUID) -> Claim:
    return journal.claim(accept.request(verb, server_id, project_id=None, actor="tester").id)


def active(catalogue: Catalogue, name: str = "web", **fields: Any) -> UUID:
    claim = journal.claim(catalogue.create(name, **fields).id)
    journal.complete(claim)
    return claim.server_id


def carried(view: OperationView, *, failing: str = "") -> OperationView:
    """Do an operation's steps in order, without Prefect's engine; undo them when one fails.

    `failing` is a step that fails after it has done its work.
    """
    from tasks.step import declared  # noqa: PLC0415 - Prefect's settings come first

    for verb in Verb:
        importlib.import_module(f"flows.{verb.replace('-', '_')}")
    held = journal.claim(view.id)
    try:
        for name in STEPS[view.verb]:
            declared(name)._attempt(held, undo=False)
            if name == failing:
                raise InnkeeperError(f"{name} was made to fail")  # noqa: TRY301 - as steps do
        journal.complete(held)
    except InnkeeperError as error:
        for begun in journal.undoing(held, str(error)):
            if declared(begun.name).undo:
                declared(begun.name)._attempt(held, undo=True)
        journal.undone(held)
    return operations.get(view.id)


def snapshot() -> dict[str, list[Any]]:
    """Return every row of every table as the database has it."""
    with engine().connect() as connection:
        return {
            table.name: sorted(map(str, connection.execute(text(f"SELECT * FROM {table.name}"))))  # noqa: S608 - our own names
            for table in Base.metadata.sorted_tables
        }


def step(claim: Claim, name: str) -> OperationStep:
    with transaction() as session:
        return session.get_one(OperationStep, (claim.operation_id, name))


def artifacts() -> dict[str, str]:
    with transaction() as session:
        return dict(session.execute(select(Artifact.name, Artifact.state)).tuples().all())
