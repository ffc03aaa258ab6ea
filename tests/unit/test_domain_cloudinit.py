"""NoCloud documents: what is ours stays ours, and no string breaks the YAML."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.domain.cloudinit import (
    SCRIPT_PATH,
    Identity,
    Renewal,
    merge,
    meta_data,
    network_config,
    user_data,
)

PRIVATE = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\nNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----\n"
)
printable = st.text(st.characters(exclude_categories=("Cs",)), max_size=80)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | printable,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(printable, inner, max_size=3),
    max_leaves=8,
)
configs = st.dictionaries(
    st.sampled_from(
        ["hostname", "ssh_keys", "ssh_deletekeys", "preserve_hostname", "packages", "users"]
    )
    | printable,
    trees,
    max_size=6,
)


def identity(**fields: Any) -> Identity:
    plain: dict[str, Any] = {
        "instance_id": "i-1",
        "hostname": "web",
        "login_user": "debian",
        "ssh_keys": ["ssh-ed25519 AAAA me"],
        "host_key_private": PRIVATE,
        "host_key_public": "ssh-ed25519 BBBB",
    }
    return Identity(**(plain | fields))


def parsed(**fields: Any) -> dict[str, Any]:
    text = user_data(identity(**fields))
    assert text.startswith("#cloud-config\n")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def cloud_config(document: Any) -> str:
    return "#cloud-config\n" + yaml.safe_dump(document)


def test_a_plain_guest() -> None:
    config = parsed()
    assert config["hostname"] == "web"
    assert config["ssh_keys"] == {
        "ed25519_private": PRIVATE,
        "ed25519_public": "ssh-ed25519 BBBB",
    }
    assert config["ssh_pwauth"] is False
    (user,) = config["users"]
    assert user["name"] == "debian"
    assert user["lock_passwd"] is True
    assert user["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert "packages" not in config
    assert "package_update" not in config
    assert "chpasswd" not in config


def test_packages_commands_and_root_password() -> None:
    config = parsed(packages=["nginx"], runcmd=["a: b", ["c", "-d"]], root_password_hash="$2b$x")
    assert config["packages"] == ["nginx"]
    assert config["package_update"] is True
    assert config["runcmd"] == ["a: b", ["c", "-d"]]
    assert config["chpasswd"]["users"] == [{"name": "root", "password": "$2b$x", "type": "hash"}]


@given(configs)
def test_nothing_takes_host_key_and_hostname_from_us(theirs: dict[str, Any]) -> None:
    config = parsed(user_data=cloud_config(theirs))
    plain = parsed()
    for key in ("hostname", "preserve_hostname", "ssh_keys", "ssh_deletekeys"):
        assert config[key] == plain[key]


@given(configs)
def test_what_is_not_ours_arrives(theirs: dict[str, Any]) -> None:
    config = parsed(user_data=cloud_config(theirs))
    plain = parsed()
    for key, value in theirs.items():
        if key not in plain:
            assert config[key] == value


def test_lists_append_mappings_merge_and_scalars_replace() -> None:
    theirs = {
        "runcmd": ["theirs"],
        "packages": ["vim"],
        "users": [{"name": "eve"}],
        "chpasswd": {"expire": True},
        "ssh_pwauth": True,
    }
    config = parsed(
        packages=["nginx"],
        runcmd=["ours"],
        root_password_hash="$2b$x",
        user_data=cloud_config(theirs),
    )
    assert config["runcmd"] == ["ours", "theirs"]
    assert config["packages"] == ["nginx", "vim"]
    assert [user["name"] for user in config["users"]] == ["debian", "eve"]
    assert config["chpasswd"]["expire"] is True
    assert config["chpasswd"]["users"]
    assert config["ssh_pwauth"] is True


@given(st.dictionaries(printable, trees, max_size=4), st.dictionaries(printable, trees, max_size=4))
def test_merge_leaves_its_arguments_alone_and_keeps_every_key(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    before = yaml.safe_dump([ours, theirs])
    merged = merge(ours, theirs)
    assert yaml.safe_dump([ours, theirs]) == before
    assert set(merged) == set(ours) | set(theirs)
    assert merge(ours, {}) == ours
    assert merge({}, theirs) == theirs


@pytest.mark.parametrize("text", ["#cloud-config", "#cloud-config\n", "#cloud-config\n# none\n"])
def test_an_empty_cloud_config_changes_nothing(text: str) -> None:
    assert parsed(user_data=text) == parsed()


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00")))
def test_a_script_arrives_byte_for_byte_and_runs_last(body: str) -> None:
    script = "#!/bin/sh\n" + body
    config = parsed(user_data=script, runcmd=["ours"])
    assert config["write_files"] == [
        {"path": SCRIPT_PATH, "permissions": "0700", "content": script}
    ]
    assert config["runcmd"] == ["ours", [SCRIPT_PATH]]


@given(st.lists(printable, max_size=4), printable)
def test_hostile_strings_survive_the_yaml(lines: list[str], key: str) -> None:
    config = parsed(runcmd=lines, packages=lines, ssh_keys=[key], login_user=key)
    assert config["runcmd"] == lines
    assert config.get("packages", []) == lines
    assert config["users"][0]["ssh_authorized_keys"] == [key]
    assert config["users"][0]["name"] == key


@pytest.mark.parametrize("name", ["null", "yes", "no", "on", "true", "y", "e1", "web"])
def test_names_that_yaml_would_misread_stay_names(name: str) -> None:
    assert yaml.safe_load(meta_data(identity(hostname=name, instance_id="1e3"))) == {
        "instance-id": "1e3",
        "local-hostname": name,
    }
    assert parsed(hostname=name)["hostname"] == name


def test_a_fixed_address() -> None:
    text = network_config(
        identity(mac="52:54:00:01:02:03", static_address="10.64.3.17", cidr="10.64.3.0/24")
    )
    assert text is not None
    assert yaml.safe_load(text) == {
        "version": 2,
        "ethernets": {
            "primary": {
                "match": {"macaddress": "52:54:00:01:02:03"},
                "addresses": ["10.64.3.17/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "10.64.3.1"}],
                "nameservers": {"addresses": ["10.64.3.1"]},
            }
        },
    }


def test_without_a_fixed_address_dhcp_answers() -> None:
    assert network_config(identity(cidr="10.64.3.0/24")) is None


def test_secrets_are_not_in_the_representation() -> None:
    shown = repr(
        identity(user_data="#!canary", root_password_hash="canary", host_key_private="canary")
    )
    assert "canary" not in shown


def test_unicode_arrives_and_the_document_is_ascii() -> None:
    text = user_data(identity(runcmd=["echo grüße 🙂 \x85 \u2028 end"]))
    assert text.isascii()
    assert yaml.safe_load(text)["runcmd"] == ["echo grüße 🙂 \x85 \u2028 end"]


RENEWED = Renewal(machine_id="5e" * 16, forget_keys=True)


def renew(root: Path, instance: str = "i-2", **fields: Any) -> None:
    """Run a clone's first command of all, in a folder instead of a guest."""
    told = yaml.safe_load(user_data(identity(instance_id=instance, **fields)))
    (argv,) = told["bootcmd"]
    words = [
        word.replace("/etc/", f"{root}/etc/")
        .replace("/var/", f"{root}/var/")
        .replace("/home/", f"{root}/home/")
        for word in argv
    ]
    subprocess.run(words, check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Return the files of a disk that was another server's."""
    files = {
        "etc/machine-id": "0a" * 16,
        "var/lib/dbus/machine-id": "0a" * 16,
        "var/lib/dhcp/dhclient.leases": "lease",
        "var/lib/systemd/random-seed": "seed",
        "home/debian/.ssh/authorized_keys": "theirs",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_clone_forgets_who_its_disk_was(disk: Path) -> None:
    renew(disk, renewal=RENEWED, login_user="debian")
    assert (disk / "etc/machine-id").read_text() == "5e" * 16 + "\n"
    assert (disk / "var/lib/dbus/machine-id").is_symlink()
    left = {path.name for path in disk.rglob("*") if path.is_file()}
    assert left == {"machine-id", "instance"}


def test_a_clone_forgets_once_and_not_again_at_its_next_boot(disk: Path) -> None:
    renew(disk, renewal=RENEWED, login_user="debian")
    keys = disk / "home/debian/.ssh/authorized_keys"
    keys.write_text("mine")
    (disk / "etc/machine-id").write_text("mine")
    renew(disk, renewal=RENEWED, login_user="debian")
    assert (keys.read_text(), (disk / "etc/machine-id").read_text()) == ("mine", "mine")
    renew(disk, "i-3", renewal=RENEWED, login_user="debian")
    assert not keys.exists(), "a clone of the clone does"


def test_the_sources_keys_stay_unless_others_are_named(disk: Path) -> None:
    renew(disk, renewal=Renewal(machine_id="5e" * 16), login_user="debian")
    assert (disk / "home/debian/.ssh/authorized_keys").read_text() == "theirs"


def test_a_clone_forgets_before_its_network_starts_and_before_user_data() -> None:
    told = yaml.safe_load(meta_data(identity(renewal=RENEWED)))
    assert told["dsmode"] == "local"
    text = user_data(identity(renewal=RENEWED, user_data="#cloud-config\nbootcmd: [theirs]\n"))
    ours, theirs = yaml.safe_load(text)["bootcmd"]
    assert (ours[:2], theirs) == (["sh", "-c"], "theirs")
    assert "bootcmd" not in parsed()
