"""The substrate of a host: its pool and base images, with both kinds of state."""

from dataclasses import replace
from pathlib import Path

import pytest
from substrates import both, make_image

from innkeeper.errors import PermanentError
from innkeeper.hypervisor.connection import connect
from innkeeper.settings import Settings
from innkeeper.substrate import HostSubstrate, Terraform, ensure_host, is_present, state_holds
from innkeeper.substrate.failure import DestructiveChange


@both
def test_a_host_gets_its_pool_and_images_once(host: HostSubstrate) -> None:
    told: list[str] = []
    first = ensure_host(host, on_plan=told.append)
    assert first.changed
    assert "2 to add" in told[0]
    assert "Refreshing" not in told[0]
    assert "─" not in told[0]
    assert first.outputs["images"] == {"image-one.qcow2": f"{host.pool_path}/image-one.qcow2"}
    conn = connect(host.uri)
    assert conn.storagePoolLookupByName(host.pool).isActive()
    assert is_present(host)
    second = ensure_host(host, on_plan=told.append)
    assert not second.changed
    assert second.outputs == first.outputs
    assert len(told) == 1
    assert state_holds(host) == [
        'module.image["image-one.qcow2"].libvirt_volume.this',
        "module.pool.libvirt_pool.this",
    ]
    assert host.workspace in Terraform().workspaces()


def test_what_was_applied_needs_no_terraform(
    host: HostSubstrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_host(host)
    monkeypatch.setattr(Settings, "terraform_binary", "/nowhere/terraform")
    assert not ensure_host(host).changed
    connect(host.uri).storagePoolLookupByName(host.pool).destroy()
    with pytest.raises(PermanentError, match="cannot be started"):
        ensure_host(host)


def test_images_that_others_need_stay_until_they_are_named(
    host: HostSubstrate, folder: Path
) -> None:
    ensure_host(host)
    other = replace(host, images={"image-two.qcow2": make_image(folder / "two.qcow2")})
    ensure_host(other)
    assert is_present(replace(host, images={**host.images, **other.images}))
    ensure_host(other, without=["image-one.qcow2"])
    assert not is_present(host)
    assert is_present(other)


def test_an_image_found_elsewhere_is_the_same_image(host: HostSubstrate, folder: Path) -> None:
    ensure_host(host)
    elsewhere = make_image(folder / "elsewhere.qcow2")
    assert not ensure_host(replace(host, images={"image-one.qcow2": elsewhere})).changed


def test_a_missing_image_file_is_told_before_terraform_starts(host: HostSubstrate) -> None:
    with pytest.raises(PermanentError, match="import the image again"):
        ensure_host(replace(host, images={"image-x.qcow2": "/nowhere/x.qcow2"}))


def test_a_moved_pool_is_refused_with_its_contents_untouched(host: HostSubstrate) -> None:
    ensure_host(host)
    with pytest.raises(DestructiveChange, match="libvirt_pool"):
        ensure_host(replace(host, pool_path=host.pool_path + "-moved"))
    assert is_present(host)
