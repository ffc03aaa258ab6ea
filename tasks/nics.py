"""Further network cards: their network, their address, plugged in, taken out; live if it runs."""

from contextlib import suppress
from uuid import UUID

from innkeeper.errors import InnkeeperError
from innkeeper.hypervisor import nics
from innkeeper.hypervisor.connection import connect
from innkeeper.hypervisor.errors import Absent
from innkeeper.services import journal, networks
from innkeeper.services.blueprint import Blueprint
from innkeeper.services.cards import CardBlueprint
from tasks.guest import define_with_cards, nic_spec, runs
from tasks.network import forget, tell
from tasks.step import step
from tasks.substrate import show

UNPLUG_SECONDS = 20.0
"""How long a guest may take to let go of a card; one that is up does it in a second."""


def _see_to(b: Blueprint, card: CardBlueprint) -> str:
    """See that what a card is plugged into is on the host, and its limit can be kept there."""
    if card.limited:
        networks.require_shaping(b.host.id)
    if card.bridge:
        networks.require_bridge(b.host.id, card.bridge)
        return f"bridge {card.bridge} is there"
    if card.network_id and networks.ensure(card.network_id, show("plan-network")):
        return f"{card.network} applied"
    return f"{card.network} unchanged"


def _clear(cards: tuple[CardBlueprint, ...]) -> str:
    """Remove the isolated networks from the host that only these cards need, or would need."""
    ids = {card.network_id for card in cards if card.network_id}
    own = [card.id for card in cards]
    gone = sum(networks.clear(network_id, but=own) for network_id in sorted(ids))
    return f"{gone} networks removed"


@step("make-network")
def make_network(b: Blueprint) -> str:
    """See that what the card is plugged into is there; skipped when unchanged."""
    return _see_to(b, b.cards.one)


@make_network.undone_by
def unmake_network(b: Blueprint) -> str:
    """Remove an isolated network that only this card would have needed."""
    card = b.cards.subject
    if card is None:
        return "nothing was made"
    if _plugged(b, card):
        return "it stays: the server still has the card"
    return _clear((card,))


@step("make-networks")
def make_networks(b: Blueprint) -> str:
    """See that the host which a server comes to has what its further cards are plugged into."""
    if b.committed:
        return "they are there"
    return "; ".join(_see_to(b, card) for card in b.cards.attached) or "it has no further cards"


@make_networks.undone_by
def unmake_networks(b: Blueprint) -> str:
    """Remove the isolated networks that only this server would have needed there."""
    return _clear(b.cards.all)


@step("clear-networks")
def clear_networks(b: Blueprint) -> str:
    """Remove the isolated networks from the host that only this server needed there."""
    return _clear(b.cards.all)


def _plugged(b: Blueprint, card: CardBlueprint) -> bool:
    """Tell whether the guest has the card now or would have it at its next start."""
    connection = connect(b.host.uri)
    with suppress(Absent):
        there = nics.macs(connection, b.server_id, defined=True)
        live = set() if b.host.simulated else nics.macs(connection, b.server_id)
        return card.mac in there | live
    return False


@step("lease-nic")
def lease_nic(b: Blueprint) -> str:
    """Tell the network's DHCP server which address the card gets, before it asks."""
    return tell(b, b.cards.one)


@lease_nic.undone_by
def take_lease_back(b: Blueprint) -> str:
    """Remove the DHCP entry and end the lease."""
    card = b.cards.subject
    if card and _plugged(b, card):
        return "it stays: the server still has the card"
    return forget(b, card) if card else "gone"


@step("plug-nic")
def plug_nic(b: Blueprint) -> str:
    """Define the domain with the card, and plug it into a guest that runs."""
    define_with_cards(b, b.cards.with_subject())
    return _plug(b)


def _plug(b: Blueprint) -> str:
    card = b.cards.one
    if not runs(b):
        return f"{card.mac}, from its next start"
    nics.plug(connect(b.host.uri), b.server_id, nic_spec(card))
    return f"{card.mac}, live"


@plug_nic.undone_by
def unplug_again(b: Blueprint) -> str:
    """Take the card out again, wherever it is."""
    return _unplug(b) if b.cards.subject else "gone"


def _unplug(b: Blueprint) -> str:
    live = runs(b)
    if live:
        nics.unplug(connect(b.host.uri), b.server_id, b.cards.one.mac, UNPLUG_SECONDS)
    define_with_cards(b, b.cards.without_subject())
    return "unplugged, live" if live else "unplugged, the guest is off"


@step("adopt-nic")
def adopt_nic(b: Blueprint) -> str:
    """Note that the server has the card."""
    networks.adopt(b.claim)
    return f"{b.cards.one.name} is attached"


@adopt_nic.undone_by
def forget_nic(b: Blueprint) -> str:
    """Note that the server has not got it after all."""
    networks.adopt(b.claim, attached=False)
    return "not attached"


@step("unplug-nic")
def unplug_nic(b: Blueprint) -> str:
    """Have a running guest let go of the card, then define the domain without it."""
    return "done before" if b.committed else _unplug(b)


@unplug_nic.undone_by
def plug_back(b: Blueprint) -> str:
    """Give the server its card back."""
    define_with_cards(b, b.cards.with_subject())
    return _plug(b)


@step("unlease-nic")
def unlease_nic(b: Blueprint) -> str:
    """Remove the card's DHCP entry and end its lease."""
    return "done before" if b.committed else forget(b, b.cards.one)


@unlease_nic.undone_by
def lease_again(b: Blueprint) -> str:
    """Have DHCP tell the card its address again."""
    return tell(b, b.cards.one)


@step("let-nic-go")
def let_nic_go(b: Blueprint) -> str:
    """Note that the card is gone, and its address free: no way back from here."""
    networks.let_go(b.claim)
    return "gone"


@step("clear-network")
def clear_network(b: Blueprint) -> str:
    """Remove the isolated network of the card, if it was the last one there."""
    network_id = b.request["network_id"]
    if network_id is None:
        return "the bridge is the host's"
    return "removed" if networks.clear(UUID(network_id)) else "it stays"


@step("part-nics")
def part_nics(b: Blueprint) -> str:
    """Forget the further cards of a server that is deleted, and networks that only they needed."""
    here = {str(card.network_id) for card in b.cards.all if card.network_id}
    cleared = here | set(b.step_data.get("networks", ()))
    journal.note(b.claim, "part-nics", networks=sorted(cleared))
    networks.part(b.claim)
    gone = 0
    for network_id in sorted(cleared):
        try:
            gone += networks.clear(UUID(network_id))
        except InnkeeperError:  # Terraform does not tell a host that is silent from others
            if b.on_host:  # else the server needs no host; reconcile removes what is left there
                raise
    return f"{len(b.cards.all)} forgotten, {gone} networks removed"
