"""Logging in to guests that are not there yet, or not any more."""

import socket
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from contextlib import ExitStack
from typing import Any

import pytest

from innkeeper.configuration import login
from innkeeper.configuration.target import Target
from innkeeper.services import identity

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJRmUp9VgFCqOWaeSAcvVqaWcvFvLPfgsXWkC0F5cXGV"


pytestmark = pytest.mark.usefixtures("home")


def target(port: int) -> Target:
    identity.public_key()  # that is what makes the key
    return Target(host="127.0.0.1", port=port, user="debian", host_key=KEY)


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(login.GuestSilent, match="ConnectionRefusedError"):
        login.run(target(port), ["true"], timeout=30.0)
    assert time.monotonic() - begun < 10, "a refusal is not waited out"


def test_somebody_who_never_speaks_is_waited_for_as_long_as_was_said() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(login.GuestSilent, match="TimeoutError"):
            login.run(target(mute.getsockname()[1]), ["true"], timeout=0.5)


def test_a_guest_that_comes_up_is_asked_anew_for_what_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lost is what a full backlog drops."""
    tries: list[socket.socket] = []
    connect = BaseSelectorEventLoop.sock_connect

    async def tried(loop: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
        tries.append(sock)
        await connect(loop, sock, address)

    monkeypatch.setattr(BaseSelectorEventLoop, "sock_connect", tried)
    with ExitStack() as opened:
        late = opened.enter_context(socket.socket())
        late.bind(("127.0.0.1", 0))
        late.listen(0)
        late.settimeout(20.0)
        place = late.getsockname()
        crowd = [opened.enter_context(socket.socket()) for _ in range(3)]
        for one in crowd:
            one.settimeout(0)
            one.connect_ex(place)
        others = {one.getsockname() for one in crowd}
        answered: list[object] = []

        def answer() -> None:
            time.sleep(2.2)
            while not answered:
                guest, peer = late.accept()
                guest.close()
                if peer not in others:
                    answered.append(peer)

        host = threading.Thread(target=answer)
        host.start()
        with pytest.raises(login.GuestSilent):
            login.run(target(place[1]), ["true"], timeout=15.0)
        host.join()
    assert answered
    assert len(tries) > 2
    assert all(one.fileno() == -1 for one in tries), "none is left open"
