"""A guest that boots by UEFI, and what it wrote to its firmware's memory, wherever it goes."""

from uuid import UUID

import pytest

from e2e.estate import Estate, unique
from e2e.test_shelving import Life as Shelved
from innkeeper.cli.failures import CliFailure
from innkeeper.domain.naming import domain_name, nvram_file
from innkeeper.host.channel import open_channel

VARIABLE = "/sys/firmware/efi/efivars/{}-6f2b2b0e-5a0a-4bd2-9a8e-9b6f0c1d2e3f"
ATTRIBUTES = r"\007\000\000\000"  # non-volatile, at boot and at run time
MOUNT = "mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null; "


class Life(Shelved):
    """The server of this test."""

    def __init__(self, estate: Estate) -> None:
        self.estate = estate
        asked = estate.create(unique("uefi"), image="tiny-uefi")
        self.server = estate.done(asked)

    def write(self, name: str) -> None:
        self.sh(f"{MOUNT} printf '{ATTRIBUTES}{name}' > {VARIABLE.format(name)}")

    def read(self, *names: str) -> list[str]:
        paths = " ".join(VARIABLE.format(name) for name in names)
        return self.sh(f"{MOUNT} for path in {paths}; do tail -c +5 $path; echo; done").split()

    def nvram(self, host: str) -> list[str]:
        """Return what a host keeps of the memories of guests."""
        channel = open_channel(self.estate.host(host).channel_address)
        return channel.run(["find", "/var/lib/libvirt/qemu/nvram", "-type", "f"]).stdout.split()

    def lies_on(self, host: str) -> None:
        """Assert that this host alone keeps the guest's."""
        own = nvram_file(domain_name(UUID(self.server["id"]), self.server["name"]))
        assert self.server["host"] == host
        assert [self.nvram(name) for name in (host, self.other)] == [[own], []]


def test_a_uefi_guest_keeps_its_variables_wherever_it_goes(estate: Estate) -> None:
    estate.clear()
    estate.image("tiny-uefi", firmware="uefi")
    life = Life(estate)
    first = life.server["host"]
    life.write("first")
    life.done("migrated", estate.act(life.server, "migrate"))
    assert life.read("first") == ["first"]
    life.write("second")
    life.lies_on({"lab1": "lab2", "lab2": "lab1"}[first])
    with pytest.raises(CliFailure, match=r"boots by BIOS and .* by UEFI"):
        estate.act(life.server, "rebuild", image="tiny")

    life.done("stopped", estate.act(life.server, "stop"))
    life.done("moved while it was off", estate.act(life.server, "migrate"))
    life.lies_on(first)
    life.shelve()
    assert life.nvram("lab1") + life.nvram("lab2") == []
    life.unshelve(host=life.other)
    assert life.read("first", "second") == ["first", "second"]
    snapshot = estate.client.post(
        f"/servers/{life.server['id']}/snapshots", {"name": "before", "memory": True}
    )
    life.done("frozen", snapshot)
    said = estate.cli("snapshot", "verify", life.server["name"], "before", "--wait").stdout
    assert "before is verified: it booted, and its guest agent answered" in said
    life.lies_on(life.server["host"])
    life.write("third")
    life.done("deleted", estate.act(life.server, "delete"))
    assert life.nvram("lab1") + life.nvram("lab2") == []
