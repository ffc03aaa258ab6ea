"""Logging in to guests that are not there yet, or not any more."""

import socket
import threading
import time

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


def test_a_guest_that_comes_up_is_found_though_what_was_sent_first_is_lost(home: object) -> None:
    """Lost is what a full backlog drops; the kernel alone would ask again after 1, 3, 7 seconds."""
    del home
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        late.listen(0)
        port = late.getsockname()[1]
        crowd = [socket.socket() for _ in range(2)]
        for one in crowd:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        answered: list[float] = []

        def answer() -> None:
            time.sleep(1.2)
            for _ in crowd:
                late.accept()[0].close()
            late.settimeout(5.0)
            with late.accept()[0]:
                answered.append(time.monotonic())

        host = threading.Thread(target=answer)
        host.start()
        begun = time.monotonic()
        with pytest.raises(login.GuestSilent):
            login.run(target(port), ["true"], timeout=6.0)
        host.join()
        for one in crowd:
            one.close()
    assert answered[0] - begun < 2.5
