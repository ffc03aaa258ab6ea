"""What guests say on their consoles is their own text: it must not drive anybody's terminal."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from api_client import Api, problem
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.naming import console_log, console_owner
from innkeeper.host.channel import CommandResult
from innkeeper.services import consoles


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("[  OK  ] Started sshd\r\n", "[  OK  ] Started sshd\n"),
        ("\x1b[0;32m  OK  \x1b[0m", "  OK  "),
        ("\x1b]0;another title\x07login:", "login:"),
        ("\x1b]52;c;cm0gLXJmIC8=\x1b\\done", "done"),
        ("\x1b]0;never ended\nnext", ""),
        ("\x1bcreset \x9b31m\x00\x08bell\x07", "reset 31mbell"),
        ("\x1b(Bcharset\x1b", "charset"),
        ("tab\tand wörds 漢字", "tab\tand wörds 漢字"),
    ],
)
def test_what_a_terminal_would_obey_is_left_out(said: str, shown: str) -> None:
    assert consoles.plain(said) == shown


@given(st.text(alphabet=st.sampled_from("\x1b[]();?0\x07\\mAz\x9b\n \r\x00é")))
def test_nothing_that_controls_is_ever_left(said: str) -> None:
    left = {c for c in consoles.plain(said) if unicodedata.category(c) == "Cc"}
    assert left <= {"\n", "\t"}


@given(st.uuids())
def test_a_log_names_its_server(server_id: UUID) -> None:
    assert console_owner(console_log(server_id)) == server_id
    assert console_owner(f"{console_log(server_id)}.0") == server_id
    assert console_owner(f"{console_log(server_id)}.1.gz") == server_id
    assert console_owner(f"{console_log(server_id)}ger") is None
    assert console_owner(f"/var/log/libvirt/qemu/ik-web-{server_id.hex[:8]}.log") is None


def test_what_was_rotated_goes_with_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = uuid4(), uuid4()
    monkeypatch.setattr(
        consoles, "console_log", lambda server_id: str(tmp_path / f"innkeeper-{server_id}.log")
    )
    kept = {f"innkeeper-{other}.log", f"innkeeper-{mine}.logger"}
    names = kept | {f"innkeeper-{mine}.log{end}" for end in ("", ".0", ".1.gz")}
    for name in names:
        (tmp_path / name).touch()
    consoles.forget("local:", mine)
    assert {path.name for path in tmp_path.iterdir()} == kept
    consoles.forget("local:", mine)


class Channel:
    """A host that has a console log of the lines 0 to 499, or none."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.asked: list[Sequence[str]] = []

    def run(self, argv: Sequence[str]) -> CommandResult:
        self.asked.append(argv)
        text = "".join(f"\x1b[1mline {number}\r\n" for number in range(500))
        return CommandResult(tuple(argv), 0 if self.there else 1, text if self.there else "", "")


def test_the_api_shows_the_last_lines(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()
    monkeypatch.setattr(consoles, "open_channel", lambda _address: channel)
    server_id = api.create().json()["server_id"]
    path = f"/servers/{server_id}/console-log"
    assert api("GET", path, params={"lines": 2}).json() == {
        "server_id": server_id,
        "output": "line 498\nline 499\n",
    }
    assert channel.asked == [
        ["tail", "-c", str(consoles.LARGEST_BYTES), "--", console_log(UUID(server_id))]
    ]
    problem(api("GET", path, "stranger"), 404, "not-found")
    problem(api("GET", f"/servers/{uuid4()}/console-log"), 404, "not-found")
    problem(api("GET", path, params={"lines": 0}), 422, "validation-failed")


def test_a_server_that_never_ran_has_said_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consoles, "open_channel", lambda _address: Channel(there=False))
    answer: Any = api("GET", f"/servers/{api.create().json()['server_id']}/console-log")
    assert (answer.status_code, answer.json()["output"]) == (200, "")
