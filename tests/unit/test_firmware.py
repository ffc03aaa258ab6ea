"""Images that boot by UEFI: where they may go, and what their guests' firmware remembers."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from conftest import Catalogue
from journaled import active, started

from innkeeper.db.models import Image
from innkeeper.db.session import transaction
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.specs import RebuildRequest
from innkeeper.errors import Conflict, NoHostFits
from innkeeper.hypervisor.power import PowerState
from innkeeper.services import accept, images, nvram, servers
from tasks import firmware


def by_uefi(catalogue: Catalogue) -> None:
    with transaction() as session:
        session.get_one(Image, catalogue.image_id).firmware = "uefi"


def test_a_host_without_the_firmware_gets_no_such_server(catalogue: Catalogue) -> None:
    by_uefi(catalogue)
    catalogue.set_hosts(virt_type="qemu")
    catalogue.set_hosts("alpha", uefi=False)
    assert catalogue.create("web").verdict["hosts"][0]["refused"].startswith("it has no UEFI")
    catalogue.set_hosts("beta", uefi=False)
    with pytest.raises(NoHostFits, match="install ovmf, then `innkeeper host enable` it"):
        catalogue.create("mail")


def test_a_host_without_it_is_good_enough_for_all_others(catalogue: Catalogue) -> None:
    catalogue.set_hosts(virt_type="qemu", uefi=False)
    assert {host["refused"] for host in catalogue.create("web").verdict["hosts"]} == {None}


def test_a_rebuild_boots_by_the_same_firmware(catalogue: Catalogue) -> None:
    images.ready("other", path="/o", sha256="f" * 64, size_bytes=1, virtual_size_bytes=1)
    server_id = active(catalogue)
    by_uefi(catalogue)
    with pytest.raises(Conflict, match="'other' boots by BIOS and 'web' by UEFI: create a new"):
        accept.request(
            Verb.REBUILD,
            server_id,
            RebuildRequest(image="other"),
            project_id=None,
            actor="tester",
        )


def test_what_was_written_comes_back_and_is_forgotten(catalogue: Catalogue) -> None:
    claim = started(catalogue)
    assert nvram.kept(claim.server_id) is None
    written = bytes(range(256)) + b"\xff" * (1 << 19)
    nvram.keep(claim, written)
    assert nvram.kept(claim.server_id) == written
    nvram.keep(claim, None)
    assert nvram.kept(claim.server_id) is None
    assert servers.get(claim.server_id).name == "web"


@pytest.mark.parametrize(
    ("committed", "state", "written"),
    [
        (False, PowerState.OFF, [b"kept"]),
        (False, PowerState.RUNNING, []),
        (True, PowerState.OFF, []),  # it has run there since, and what it wrote is newer
    ],
)
def test_what_was_kept_replaces_nothing_newer(
    monkeypatch: pytest.MonkeyPatch, committed: bool, state: PowerState, written: list[bytes]
) -> None:
    found: list[bytes] = []
    channel = SimpleNamespace(write_file=lambda _path, data: found.append(data))
    monkeypatch.setattr(firmware.nvram, "kept", lambda _id: b"kept")
    monkeypatch.setattr(firmware, "connect", lambda _uri: None)
    monkeypatch.setattr(firmware, "open_channel", lambda _channel: channel)
    monkeypatch.setattr(firmware.guest, "power_state", lambda *_: state)
    b: Any = SimpleNamespace(
        committed=committed,
        disk_image=SimpleNamespace(firmware="uefi"),
        host=SimpleNamespace(simulated=False, uri="", channel=""),
        server_id=uuid4(),
        domain_name="ik-web",
    )
    firmware.give_nvram(b)
    assert found == written
