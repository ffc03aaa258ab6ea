"""Stopping a guest that is on its way down already."""

from typing import Any
from uuid import uuid4

import pytest

from innkeeper.hypervisor import guest
from innkeeper.hypervisor.errors import AgentUnavailable, StateChanged
from innkeeper.hypervisor.power import PowerState


@pytest.mark.parametrize(("patience", "ending"), [((5, 0), "agent"), ((0, 5), "acpi")])
def test_a_guest_whose_qemu_is_about_to_end_is_not_forced(
    monkeypatch: pytest.MonkeyPatch, patience: tuple[float, float], ending: str
) -> None:
    states = iter([PowerState.RUNNING] * 3)

    def too_late(_conn: object, _server_id: object, mode: str) -> None:
        if mode != ending:
            raise AgentUnavailable("The guest agent is not connected.")
        raise StateChanged("The domain is not running.")

    def forced(*_: Any) -> None:
        pytest.fail("the plug was pulled")

    monkeypatch.setattr(guest, "power_state", lambda *_: next(states, PowerState.OFF))
    monkeypatch.setattr(guest, "_state", lambda _domain: PowerState.RUNNING)
    monkeypatch.setattr(guest, "_domain", lambda *_: None)
    monkeypatch.setattr(guest, "bound_agent", lambda *_: None)
    monkeypatch.setattr(guest, "shutdown", too_late)
    monkeypatch.setattr(guest, "destroy", forced)
    conn: Any = None
    assert guest.stop(conn, uuid4(), *patience) == ending
