"""From options to a request: SSH keys, roles, numbered names; and the way in by ssh."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from innkeeper.cli import login, request
from innkeeper.cli.failures import Refused, UsageFailure
from innkeeper.domain.lifecycle import Status
from innkeeper.services.views import ServerView
from innkeeper.settings import settings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFlw8I1rWwwMvXovy70WRUIIjzwPGIbpcij8JhgbJyMA"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINXpjL2AgVRN/A4z+c20O1+Blwf4T9oO+ekVEyJo2Oe3 bob@b"
SERVER_ID = UUID("0b54bd60-70b5-4f9a-9f2c-5f4e5a1f6a01")


@pytest.fixture(autouse=True)
def user(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a user without keys."""
    place = tmp_path / "user"
    (place / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings.cache_clear()
    return place


def innkeeper_key() -> Path:
    identity = settings().identity_file
    identity.parent.mkdir(parents=True)
    identity.write_text("private")
    identity.with_suffix(".pub").write_text(f"{KEY} innkeeper\n")
    return identity


def server(**changes: object) -> ServerView:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return ServerView(
        id=SERVER_ID,
        name="web",
        project_id=SERVER_ID,
        project="default",
        status=Status.ACTIVE,
        operation_id=None,
        host="alpha",
        image="debian",
        plan="small",
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        address="10.64.0.5",
        mac="52:54:00:00:00:01",
        edge_address="192.0.2.7",
        ssh_port=2207,
        ssh_user="debian",
        host_key=f"{KEY} root@web",
        fault=None,
        description="",
        root_password_available=False,
        allowed=[],
        created_at=now,
        updated_at=now,
        deleted_at=None,
    ).model_copy(update=changes)


def test_default_keys_are_the_users(user: Path) -> None:
    innkeeper_key()
    (user / ".ssh/id_ed25519.pub").write_text(f"{KEY} me@here\n")
    (user / ".ssh/old.pub").write_text(f"{KEY} me@here\n{OTHER}\n")
    (user / ".ssh/ca-cert.pub").write_text("ssh-ed25519-cert-v01@openssh.com AAAA me\n")
    (user / ".ssh/dsa.pub").write_text("ssh-dss AAAAB3NzaC1kc3MAAACBA me\n")
    (user / ".ssh/strange.pub").write_bytes(b"\xff\xfe")
    assert request.ssh_keys([]) == [f"{KEY} me@here", OTHER]


def test_without_keys_of_the_user_innkeepers_own_is_sent() -> None:
    innkeeper_key()
    assert request.ssh_keys([]) == [f"{KEY} innkeeper"]


def test_without_any_key_the_user_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert request.ssh_keys([]) == []
    assert "--ssh-key" in capsys.readouterr().err


def test_keys_come_from_files_and_words(tmp_path: Path) -> None:
    keys = tmp_path / "authorized_keys"
    keys.write_text(f"# team\n\n{KEY} a\n{OTHER}\n")
    assert request.ssh_keys([str(keys), OTHER, KEY]) == [f"{KEY} a", OTHER, KEY]


def test_a_private_key_never_leaves_the_machine(tmp_path: Path) -> None:
    private = tmp_path / "id_ed25519"
    private.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n")
    with pytest.raises(UsageFailure, match=r"id_ed25519\.pub"):
        request.ssh_keys([str(private)])


@pytest.mark.parametrize("content", ["", "# nothing\n", "hello\n", f"{KEY} a\nssh-rsa AAAA\n"])
def test_a_file_without_keys_is_wrong_usage(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(UsageFailure, match=str(path)):
        request.ssh_keys([str(path)])


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageFailure, match="No such file"):
        request.ssh_keys([str(tmp_path / "missing.pub")])


def test_roles_of_words_and_file(tmp_path: Path) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text("web: {port: 80, root: /srv}\ndb:\n")
    assert request.roles(["web:port=8080,tls=true,name=a b", "base"], path) == [
        {
            "name": "web",
            "variables": {"port": 8080, "root": "/srv", "tls": True, "name": "a b"},
        },
        {"name": "base", "variables": {}},
        {"name": "db", "variables": {}},
    ]


@pytest.mark.parametrize("word", [":a=b", "web:novalue", "web:=x"])
def test_an_unclear_role_is_wrong_usage(word: str) -> None:
    with pytest.raises(UsageFailure, match="should look like"):
        request.roles([word], None)


@pytest.mark.parametrize("content", ["- a\n", "web: 5\n", "a: [\n", "text"])
def test_a_role_file_of_another_shape_is_wrong_usage(tmp_path: Path, content: str) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(content)
    with pytest.raises(UsageFailure):
        request.roles([], path)


def test_numbered_names() -> None:
    assert request.numbered("web", None) == ["web"]
    assert request.numbered("web", 1) == ["web-1"]
    assert request.numbered("web", 3) == ["web-1", "web-2", "web-3"]


def test_ssh_checks_the_host_key_strictly() -> None:
    argv = login.ssh_argv(server(), ["uptime"])
    assert argv[:3] == ["ssh", "-p", "2207"]
    assert argv[-5:] == ["-l", "debian", "--", "192.0.2.7", "uptime"]
    assert "StrictHostKeyChecking=yes" in argv
    known = next(word for word in argv if word.startswith("UserKnownHostsFile="))
    path = Path(known.partition("=")[2])
    assert path.read_text() == f"[192.0.2.7]:2207 {KEY}\n"
    assert list(path.parent.iterdir()) == [path]


def test_without_innkeepers_key_ssh_keeps_its_own_ways(user: Path) -> None:
    (user / ".ssh/id_ed25519").write_text("private")
    assert "-i" not in login.ssh_argv(server(), [])


def test_the_users_keys_come_before_innkeepers(user: Path) -> None:
    own = user / ".ssh/id_rsa"
    own.write_text("private")
    identity = innkeeper_key()
    argv = login.ssh_argv(server(), [])
    files = [argv[place + 1] for place, word in enumerate(argv) if word == "-i"]
    assert files == [str(own), str(identity)]
    assert "IdentitiesOnly=yes" not in argv


def test_a_named_identity_is_the_only_one(tmp_path: Path) -> None:
    innkeeper_key()
    mine = tmp_path / "mine"
    mine.write_text("private")
    argv = login.ssh_argv(server(), [], identity=mine, user="root")
    assert argv.count("-i") == 1
    assert str(mine) in argv
    assert "IdentitiesOnly=yes" in argv
    assert argv[argv.index("-l") + 1] == "root"
    with pytest.raises(UsageFailure, match="cannot be read"):
        login.ssh_argv(server(), [], identity=tmp_path / "missing")


@pytest.mark.parametrize(
    "changes",
    [
        {"edge_address": "-oProxyCommand=touch /tmp/x"},
        {"edge_address": "host name"},
        {"edge_address": ""},
        {"ssh_user": "-oProxyCommand=x"},
        {"ssh_user": "a\nb"},
        {"host_key": ""},
        {"host_key": f"{KEY}\n* {OTHER}"},
        {"host_key": "@cert-authority * ssh-ed25519 AAAA"},
        {"ssh_port": None},
    ],
)
def test_data_that_ssh_could_misread_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(Refused):
        login.ssh_argv(server(**changes), [])


def test_the_fault_says_why_there_is_no_way_in() -> None:
    with pytest.raises(Refused, match="pool is full"):
        login.ssh_argv(server(ssh_port=None, status=Status.ERROR, fault="The pool is full."), [])


def test_known_hosts_are_not_for_others_to_write() -> None:
    path = login.known_hosts(server())
    assert path.parent.stat().st_mode & 0o022 == 0
