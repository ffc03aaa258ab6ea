"""The client: problems become failures with exit codes, broken connections are tried again."""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import httpx
import pytest

from innkeeper.cli import client as module
from innkeeper.cli import sse
from innkeeper.cli.client import Client
from innkeeper.cli.failures import CliFailure, ExitCode, failure_class
from innkeeper.errors import InnkeeperError

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing sleeps; what would have slept is noted."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    return slept


def client(handler: Handler, key: str | None = "ik_test") -> Client:
    return Client("http://api.test", key, transport=httpx.MockTransport(handler))


def problem(status: int, slug: str, **more: Any) -> httpx.Response:
    body = {"type": f"https://innkeeper.dev/problems/{slug}", "title": slug, "status": status}
    return httpx.Response(
        status, json=body | more, headers={"content-type": "application/problem+json"}
    )


@pytest.mark.parametrize(
    ("status", "slug", "code"),
    [
        (400, "about:blank", ExitCode.USAGE),
        (401, "unauthenticated", ExitCode.UNAUTHENTICATED),
        (403, "forbidden", ExitCode.UNAUTHENTICATED),
        (403, "quota-exceeded", ExitCode.REFUSED),
        (404, "not-found", ExitCode.NOT_FOUND),
        (409, "conflict", ExitCode.REFUSED),
        (409, "no-host-fits", ExitCode.REFUSED),
        (422, "invalid-request", ExitCode.USAGE),
        (422, "request-refused", ExitCode.REFUSED),
        (500, "internal-error", ExitCode.UNREACHABLE),
        (503, "host-unreachable", ExitCode.UNREACHABLE),
    ],
)
def test_problem_gets_its_exit_code(status: int, slug: str, code: ExitCode) -> None:
    api = client(lambda _: problem(status, slug, detail="The cause. The next step."))
    with pytest.raises(CliFailure) as caught:
        api.get("/servers")
    assert caught.value.exit_code is code
    assert caught.value.detail == "The cause. The next step."


def test_every_error_of_the_catalogue_has_an_exit_code_other_than_success() -> None:
    kinds = [InnkeeperError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert failure_class(kind.status, kind.slug).exit_code in set(ExitCode) - {ExitCode.DONE}
    assert len(kinds) > 10


def test_fields_of_a_validation_problem_are_shown() -> None:
    api = client(
        lambda _: problem(
            422,
            "invalid-request",
            detail="Two fields are wrong.",
            errors=[
                {"pointer": "#/name", "detail": "too long"},
                {"loc": ["body", "plan"], "msg": "unknown"},
            ],
        )
    )
    with pytest.raises(CliFailure) as caught:
        api.post("/servers", {})
    assert caught.value.detail == "Two fields are wrong.\n#/name: too long\nbody.plan: unknown"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b""])
def test_an_error_that_is_no_problem_document_is_named_by_its_status(body: bytes) -> None:
    api = client(lambda _: httpx.Response(502, content=body))
    with pytest.raises(CliFailure, match="502 Bad Gateway") as caught:
        api.get("/servers")
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_success_that_is_not_json_names_the_address() -> None:
    api = client(lambda _: httpx.Response(200, text="<html>a proxy</html>"))
    with pytest.raises(CliFailure, match="INNKEEPER_API_URL") as caught:
        api.get("/servers")
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_no_answer_says_how_to_start_the_stack(naps: list[float]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(CliFailure, match="make up") as caught:
        client(refuse).get("/servers")
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    assert len(naps) == module.ATTEMPTS - 1
    assert sum(naps) < 3.0


def test_a_post_that_breaks_is_repeated_under_the_same_key() -> None:
    keys: list[str] = []

    def breaks_once(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(202, json={"ok": True})

    assert client(breaks_once).post("/servers", {"name": "a"}) == {"ok": True}
    assert len(keys) == 2
    assert keys[0] == keys[1]


@pytest.mark.parametrize("path", ["/keys", "/servers/1/root-password"])
def test_a_post_that_may_have_had_its_effect_is_not_repeated(path: str) -> None:
    sent: list[httpx.Request] = []

    def breaks(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        raise httpx.ReadError("reset", request=request)

    with pytest.raises(CliFailure):
        client(breaks).post(path)
    assert len(sent) == 1
    with pytest.raises(CliFailure):
        client(breaks).post("/servers/1/actions/stop")
    assert len(sent) == 1 + module.ATTEMPTS


@pytest.mark.parametrize("key", ["", " a", "caf\u00e9", "a\nb", "x" * 256])
def test_an_unfit_idempotency_key_is_wrong_usage(key: str) -> None:
    with pytest.raises(CliFailure) as caught:
        client(lambda _: httpx.Response(200, json={})).post("/servers", idempotency_key=key)
    assert caught.value.exit_code is ExitCode.USAGE


def test_two_posts_have_two_keys_and_a_given_key_is_kept() -> None:
    keys: list[str] = []

    def note(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        return httpx.Response(202, json={})

    api = client(note)
    api.post("/servers")
    api.post("/servers")
    api.delete("/servers/1")
    api.post("/servers", idempotency_key="mine")
    assert len(set(keys)) == 4
    assert keys[3] == "mine"


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_the_api_asks_for_is_kept(status: int, naps: list[float]) -> None:
    answers = iter([problem(status, "busy"), httpx.Response(200, json=[])])

    def limited(_: httpx.Request) -> httpx.Response:
        answer = next(answers)
        if answer.is_error:
            answer.headers["Retry-After"] = "7"
        return answer

    assert client(limited).get("/servers") == []
    assert naps == [7.0]


@pytest.mark.parametrize("after", ["", "soon", "3600"])
def test_a_pause_that_is_unbearable_is_a_refusal(after: str, naps: list[float]) -> None:
    def limited(_: httpx.Request) -> httpx.Response:
        answer = problem(429, "too-many-requests")
        answer.headers["Retry-After"] = after
        return answer

    with pytest.raises(CliFailure) as caught:
        client(limited).get("/servers")
    assert caught.value.exit_code is ExitCode.REFUSED
    assert naps == []


def test_patience_is_the_read_timeout() -> None:
    seen: list[Any] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(201, json={})

    api = client(note)
    api.post("/hosts", {}, patience=300.0)
    api.get("/hosts")
    assert [(limit["connect"], limit["read"]) for limit in seen] == [(3.0, 300.0), (3.0, 30.0)]


def test_key_is_sent_as_bearer_and_never_in_the_address() -> None:
    seen: list[httpx.Request] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    client(note, "ik_canary").get("/servers", name="a b", project=None)
    assert seen[0].headers["Authorization"] == "Bearer ik_canary"
    assert str(seen[0].url) == "http://api.test/api/v1/servers?name=a+b"


def test_items_walks_the_pages_up_to_the_limit() -> None:
    asked: list[dict[str, str]] = []

    def pages(request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        asked.append(query)
        first = int(query.get("cursor", "0"))
        size = int(query["limit"])
        return httpx.Response(
            200,
            json={
                "items": [{"id": number} for number in range(first, first + size)],
                "next_cursor": str(first + size),
            },
        )

    found = list(client(pages).items("/servers", limit=150, status="active"))
    assert [entry["id"] for entry in found] == list(range(150))
    assert [query["limit"] for query in asked] == ["100", "50"]
    assert all(query["status"] == "active" for query in asked)


def test_items_of_a_plain_list() -> None:
    api = client(lambda _: httpx.Response(200, json=[{"id": 1}, {"id": 2}]))
    assert list(api.items("/plans", limit=1)) == [{"id": 1}]
    assert list(api.items("/plans")) == [{"id": 1}, {"id": 2}]


def test_events_come_out_of_a_stream() -> None:
    text = 'event: step\ndata: {"name": "volume"}\n\n: ping\n\nevent: end\ndata: {}\n\n'

    def stream(request: httpx.Request) -> httpx.Response:
        assert request.headers["Accept"] == "text/event-stream"
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    with client(stream).events("/operations/1/events") as events:
        assert [event.name for event in events] == ["step", "end"]


def test_a_stream_that_breaks_is_unreachable() -> None:
    def broken() -> Iterator[bytes]:
        yield b"event: step\ndata: {}\n\n"
        raise httpx.ReadError("reset")

    def stream(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=broken(), headers={"content-type": "text/event-stream"})

    def drain() -> None:
        with client(stream).events("/operations/1/events") as events:
            for _ in events:
                pass

    with pytest.raises(CliFailure) as caught:
        drain()
    assert caught.value.exit_code is ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        (["data: a", "data: b", ""], [("message", "a\nb")]),
        (["event: step", "data:x", "id: 4", "retry: 5", ""], [("step", "x")]),
        ([": comment", "", "event: lonely", ""], []),
        (["data: unfinished"], []),
        (["data", ""], [("message", "")]),
        (["data:  two", "", "", "data: 2", ""], [("message", " two"), ("message", "2")]),
        (["event: a", "data: 1", "", "data: 2", ""], [("a", "1"), ("message", "2")]),
    ],
)
def test_parse_of_server_sent_events(lines: list[str], events: list[tuple[str, str]]) -> None:
    assert [(event.name, event.data) for event in sse.parse(lines)] == events


def test_parse_does_not_wait_for_the_end_of_the_stream() -> None:
    endless = chain.from_iterable(repeat(["data: 1", ""]))
    assert next(sse.parse(endless)).data == "1"
