"""Settings that make no sense are told by the name that the operator wrote."""

import pytest

from innkeeper.settings import InvalidSettings, settings


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("INNKEEPER_GUEST_NETWORKS", "10.64.0.0", "at least one /24"),
        ("INNKEEPER_GUEST_NETWORKS", "10.64.0.1/16", "host bits"),
        ("INNKEEPER_GUEST_NETWORKS", "inside", "Expected 4 octets"),
        ("INNKEEPER_FORWARD_PORTS", "[2299, 2200]", "TCP ports"),
        ("INNKEEPER_FORWARD_PORTS", "[0, 70000]", "TCP ports"),
        ("INNKEEPER_WORKER_LIMIT", "many", "integer"),
        ("INNKEEPER_ACCELERATOR", "xen", "auto.*kvm.*qemu"),
    ],
)
def test_nonsense_is_named(
    name: str, value: str, said: str, home: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv(name, value)
        settings.cache_clear()
        with pytest.raises(InvalidSettings, match=said) as refused:
            settings()
    assert str(refused.value).startswith(f"{name}: ")
    assert "https://" not in str(refused.value)


@pytest.mark.parametrize("written", ["3000-3099", "[3000, 3099]", "3000,3099"])
def test_a_range_of_ports(written: str, home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("INNKEEPER_FORWARD_PORTS", written)
        settings.cache_clear()
        assert settings().forward_ports == (3000, 3099)
    settings.cache_clear()
