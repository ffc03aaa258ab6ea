"""Secrets at rest: one key per home, however many ask for it first, and no other one fits."""

import stat
from pathlib import Path

import pytest
from conftest import Catalogue, Race
from cryptography.fernet import Fernet
from sqlalchemy import text

from innkeeper.db.models import Server
from innkeeper.db.session import engine, transaction
from innkeeper.db.types import SecretKeyMismatch
from innkeeper.services import identity
from innkeeper.settings import settings


def test_of_many_first_users_one_makes_the_key(home: Path, race: Race) -> None:
    keys = race(20, lambda _: settings().secret_key())
    assert set(keys) == {(home / "secret.key").read_bytes()}
    Fernet(keys[0])
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["secret.key"]


def test_of_many_first_users_one_makes_the_identity(home: Path, race: Race) -> None:
    results = race(12, lambda _: (identity.ensure(), settings().identity_file.read_bytes())[1])
    assert len(set(results)) == 1
    assert stat.S_IMODE(settings().identity_file.stat().st_mode) == 0o600
    assert [path.name for path in (home / "ssh").iterdir()] == ["id_ed25519"]
    assert identity.public_key().startswith("ssh-ed25519 ")


def test_a_key_from_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key()
    monkeypatch.setenv("INNKEEPER_SECRET_KEY", key.decode())
    assert settings().secret_key() == key
    assert not (home / "secret.key").exists()


def test_another_key_does_not_open_the_database(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    server_id = catalogue.create("web").server_id
    monkeypatch.setenv("INNKEEPER_SECRET_KEY", Fernet.generate_key().decode())
    with (
        pytest.raises(SecretKeyMismatch, match=r"restore secret\.key in INNKEEPER_HOME"),
        transaction() as session,
    ):
        assert session.get_one(Server, server_id).host_key_private


def test_a_database_error_shows_no_parameter(catalogue: Catalogue) -> None:
    catalogue.create("web")
    with pytest.raises(Exception, match=r"UNIQUE|unique") as raised, engine().begin() as connection:
        connection.execute(
            text("INSERT INTO plans SELECT id, :secret, 1, 1, 1, 0 FROM plans"),
            {"secret": "canary-5d1"},
        )
    assert "canary-5d1" not in str(raised.value).split("DETAIL")[0]
