"""Configuration of the guest by Ansible: the base role, then the roles on request."""

from contextlib import suppress

from innkeeper.configuration import ansible
from innkeeper.errors import TransientError
from innkeeper.services import journal
from innkeeper.services.blueprint import Blueprint
from innkeeper.settings import settings
from tasks.guest_login import target_of
from tasks.step import step


@step("configure")
def configure_guest(b: Blueprint) -> str:
    """Apply the base role and the requested roles; every task shows as progress."""
    if b.host.simulated:
        return "simulated"

    def show(name: str, outcome: str) -> None:
        journal.progress(b.claim, "configure", None, f"{name}: {outcome}")

    def cancelled() -> bool:
        with suppress(TransientError):  # the database is away: ask again in a moment
            return journal.cancelled(b.claim)
        return False

    done = ansible.configure(
        target_of(b),
        b.roles,
        on_task=show,
        deadline_seconds=settings().configure_seconds,
        cancelled=cancelled,
    )
    names = ", ".join(["base", *(role.name for role in b.roles)])
    return f"{names}: {done.ok} ok, {done.changed} changed"
