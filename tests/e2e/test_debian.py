"""A real Debian guest, with systemd and cloud-init, and its clone: one boot of each, emulated."""

from e2e.estate import Estate, unique
from e2e.test_clones import IDENTITY, clone, deleted, different, sh
from e2e.test_life import USER_DATA
from innkeeper.cli.client import Json

ASKED = "cloud-init status; echo /; ip -4 address; echo /; id -un; hostname; echo /; "
ASKED += "cat /etc/innkeeper-canary /var/ours /var/theirs"
BOOT_SECONDS = 780.0
"""It boots in minutes where other tests' guests do beside it."""


def tells(estate: Estate, server: Json) -> None:
    """Assert that a guest has ended its first boot, and has its own static address and name."""
    told = estate.login(server, ["sh", "-c", ASKED], timeout=120.0)  # each login takes seconds
    init, addresses, names, files = told.split("\n/\n")
    assert init.split()[-1] == "done"
    assert f"inet {server['address']}/" in addresses
    assert "dynamic" not in addresses
    assert names.split() == [server["ssh_user"], server["name"]]
    assert "".join(files.split()) == "mergedourstheirs"


def test_debian_with_real_cloud_init_and_its_clone(estate: Estate) -> None:
    estate.image("debian")
    source = estate.done(
        estate.create(
            unique("debian"),
            image="debian",
            plan="small",
            static_address=True,
            packages=[],
            runcmd=["echo ours > /var/ours"],
            user_data=USER_DATA,
        ),
        seconds=BOOT_SECONDS,
    )
    tells(estate, source)
    sh(estate, source, "echo mine > /root/mine; sync")
    boot = estate.boot_id(source)
    asked = clone(estate, source, unique("debian-twin"), quiesce="required")
    twin = estate.done(asked, seconds=BOOT_SECONDS)
    assert estate.boot_id(source) == boot
    assert sh(estate, twin, "cloud-init status --wait >/dev/null; cat /root/mine") == "mine"
    tells(estate, twin)
    different(estate, source, twin, names=IDENTITY)
    deleted(estate, twin)
    deleted(estate, source)
    assert estate.audit() == []
