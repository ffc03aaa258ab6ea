"""What a wrong command, key or address and an API that fails look like; help and completion."""

from pathlib import Path

import httpx
import pytest
from paper_api import RUNNER, Answer, PaperApi, a_problem, a_server, page, run

from innkeeper.cli.main import app


def test_what_the_api_says_cannot_steer_the_terminal(paper: PaperApi) -> None:
    paper.on("GET", "/servers", page(a_server(description="\x1b[31mred\x07 [bold]not bold[/bold]")))
    shown = run("server", "show", "web").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]not bold[/bold]" in shown


def test_an_answer_of_another_version_is_no_traceback(paper: PaperApi) -> None:
    paper.on("GET", "/servers", page({"name": "web", "id": 1}))
    assert "another version" in run("list", code=5).stderr


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (a_problem(401, "unauthenticated", "The key is unknown."), 6, "The key is unknown."),
        (a_problem(403, "forbidden", "Only for admins."), 6, "Only for admins."),
        (a_problem(500, "internal-error", "See the log."), 5, "See the log."),
        (httpx.ConnectError("refused"), 5, "make up"),
        (httpx.ReadTimeout("slow"), 5, "does not answer in time"),
    ],
)
def test_failures_are_sentences_on_stderr(
    paper: PaperApi, answer: Answer, code: int, words: str
) -> None:
    paper.on("GET", "/servers", answer)
    result = run("server", "list", code=code)
    assert words in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "address", ["localhost:8480", "ftp://x", "http://", "http://a b", "http://[", ""]
)
def test_an_address_that_is_none(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("INNKEEPER_API_URL", address)
    if address:
        assert "INNKEEPER_API_URL" in run("list", code=2).stderr
    else:
        run("list")


def test_key_of_the_environment_wins(paper: PaperApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNKEEPER_API_KEY", "ik_mine")
    run("list")
    assert paper.requests[-1].headers["Authorization"] == "Bearer ik_mine"
    monkeypatch.setenv("INNKEEPER_API_KEY", "ik_\u00e9")
    run("list", code=6)


def test_without_any_key_none_is_sent(paper: PaperApi, home: Path) -> None:
    (home / "admin.key").unlink()
    run("list")
    assert "Authorization" not in paper.requests[-1].headers


def test_wrong_usage_exits_with_2(paper: PaperApi) -> None:
    run("server", "nonsense", code=2)
    run("nonsense", code=2)
    assert "Did you mean" in run("servr", code=2).stderr
    run("create", code=2)
    run("create", "web", "--count", "0", code=2)
    run("list", "-o", "xml", code=2)
    assert paper.requests == []


def test_help_documents_exit_codes() -> None:
    text = run("--help").stdout
    for word in ("Exit codes", "not found", "refused", "INNKEEPER_API_KEY"):
        assert word in text


def test_completion_offers_commands_and_servers(
    paper: PaperApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(line: str) -> str:
        variables = {"_INNKEEPER_COMPLETE": "complete_bash", "COMP_WORDS": line}
        variables["COMP_CWORD"] = str(len(line.split(" ")) - 1)
        return RUNNER.invoke(app, [], env=variables, prog_name="innkeeper").stdout

    monkeypatch.setattr(
        "httpx.get",
        lambda url, **rest: httpx.Client(transport=httpx.MockTransport(paper)).get(url, **rest),
    )
    assert "server" in complete("innkeeper ser").split()
    assert {"start", "stop"} <= set(complete("innkeeper server st").split())
    assert complete("innkeeper server show w").split() == ["web"]
    paper.on("GET", "/servers", httpx.ConnectError("refused"))
    assert complete("innkeeper server show w").strip() == ""
