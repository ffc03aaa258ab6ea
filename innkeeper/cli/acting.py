"""What the commands of servers share: a verb on each of some servers."""

from typing import Any

from innkeeper.cli import accepted, foresight, lookup
from innkeeper.cli.client import Client, Json, connect
from innkeeper.cli.output import Format


def act(
    verb: str,
    names: list[str],
    body: dict[str, Any],
    idempotency_key: str | None,
    project: str | None,
    *,
    wait: bool,
    output: Format,
) -> None:
    """Ask for a verb on servers and tell what became of it; each has a key of its own.

    Raises:
        CliFailure: the first refusal, or the first operation that failed.
    """
    with connect() as client:

        def ask(name: str) -> Json:
            server_id = lookup.server(client, name, project)["id"]
            key = f"{idempotency_key}/{server_id}" if idempotency_key else None
            return _request(client, verb, server_id, body, key)

        operations, failures = accepted.each(names, ask)
        accepted.conclude(
            client, operations, failures, wait=wait, fmt=output, several=len(names) > 1
        )


def act_on(
    verb: str,
    server: str,
    body: Json,
    idempotency_key: str | None,
    project: str | None,
    *,
    wait: bool,
    output: Format,
) -> None:
    """Ask for a verb about a thing of one server, and tell what became of it.

    Raises:
        CliFailure: the refusal, or the failure of the operation.
    """
    with connect() as client:
        server_id = lookup.server(client, server, project)["id"]
        operation = _request(client, verb, server_id, body, idempotency_key)
        accepted.conclude(client, [operation], wait=wait, fmt=output)


def _request(client: Client, verb: str, server_id: str, body: Json, key: str | None) -> Json:
    path, query = f"/servers/{server_id}", foresight.query()
    answer: Json = (
        client.delete(path, idempotency_key=key, **query)
        if verb == "delete"
        else client.post(f"{path}/actions/{verb}", body, idempotency_key=key, **query)
    )
    return answer
