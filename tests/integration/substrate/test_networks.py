"""The substrate of a project on a host: its network, drift, and refusals."""

from dataclasses import replace

import pytest

from innkeeper.errors import HostUnreachable, PermanentError
from innkeeper.hypervisor.connection import connect
from innkeeper.substrate import NetworkSubstrate, Terraform, drift, ensure_network, is_present


def test_a_network_is_open_and_starts_with_the_host(network: NetworkSubstrate) -> None:
    assert ensure_network(network).changed
    live = connect(network.uri).networkLookupByName(network.name)
    assert 'forward mode="open"' in live.XMLDesc(0).replace("'", '"')
    assert live.autostart()
    assert 'stp="off"' in live.XMLDesc(0).replace("'", '"')
    assert not ensure_network(network).changed
    assert not drift(network).changed


def test_a_network_that_somebody_removed_is_drift_and_comes_back(
    network: NetworkSubstrate,
) -> None:
    ensure_network(network)
    live = connect(network.uri).networkLookupByName(network.name)
    live.destroy()
    assert not is_present(network)
    ensure_network(network)  # only stopped: Terraform itself would not notice
    assert is_present(network)
    live.destroy()
    live.undefine()
    assert drift(network).changed
    assert ensure_network(network).changed
    assert is_present(network)


def test_a_foreign_network_of_that_name_is_refused(network: NetworkSubstrate) -> None:
    ensure_network(network)
    Terraform().backend.forget(network.workspace)
    with pytest.raises(PermanentError, match="another bridge or address"):
        ensure_network(replace(network, cidr="10.79.9.0/24"))
    ensure_network(network)


def test_an_unreachable_host_is_worth_a_retry(network: NetworkSubstrate) -> None:
    away = replace(network, uri="qemu+unix:///system?socket=/nowhere/libvirt-sock")
    with pytest.raises(HostUnreachable):
        ensure_network(away)


def test_a_refusal_is_one_sentence_in_terraforms_words(network: NetworkSubstrate) -> None:
    with pytest.raises(PermanentError) as refused:
        ensure_network(replace(network, bridge="longer-than-linux-allows"))
    text = str(refused.value)
    assert "1 to 15 characters" in text
    assert "\n" not in text
    assert "│" not in text
