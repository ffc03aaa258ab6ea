"""What people may ask for: names, SSH keys, packages, lines and user-data."""

import base64
import itertools
import re
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from innkeeper.contracts import REQUESTS, deployment_name
from innkeeper.domain.lifecycle import Verb
from innkeeper.domain.lines import check_line, check_ssh_key
from innkeeper.domain.specs import (
    RoleRequest,
    ServerRequest,
    StopRequest,
    check_package,
)

HOSTILE = [
    "a\nb",
    "a\rb",
    "a\x00b",
    "\x1b[31m",
    "a\x7f",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "\ufeffa",
]


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _key(kind: str, *fields: bytes) -> str:
    blob = b"".join(_string(field) for field in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(blob).decode()}"


def _openssh(private: Any) -> str:
    public = private.public_key()
    return public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


REAL_KEYS = [
    _openssh(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
    _openssh(rsa.generate_private_key(65537, 2048)),
    _openssh(ec.generate_private_key(ec.SECP256R1())),
    _openssh(ec.generate_private_key(ec.SECP384R1())),
    _openssh(ec.generate_private_key(ec.SECP521R1())),
    _key("sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:"),
    _key("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\x04" + b"q" * 64, b"ssh:"),
]
ED25519 = REAL_KEYS[0]


def request(**fields: Any) -> ServerRequest:
    return ServerRequest(name="web", **fields)


def refused(**fields: Any) -> str:
    with pytest.raises(ValidationError) as error:
        request(**fields)
    return str(error.value)


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True))
def test_host_labels_are_names(name: str) -> None:
    assert ServerRequest(name=name).name == name


BOMB = "#cloud-config\na: &a {x: 1}\n" + "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in itertools.pairwise("abcdefghijkl")
)
"""Under a kilobyte that would keep a loader busy for hours."""


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "1a", "A", "a_b", "a.b", "a b", "ä", "a\n", "\na", "a" * 64, "a;b", "../a"],
)
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError):
        ServerRequest(name=name)


@given(st.text(max_size=70))
def test_no_text_becomes_a_name_that_is_not_a_host_label(text: str) -> None:
    try:
        name = ServerRequest(name=text).name
    except ValidationError:
        return
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)


@pytest.mark.parametrize("key", REAL_KEYS, ids=lambda key: key.split()[0])
def test_real_keys_are_accepted(key: str) -> None:
    assert check_ssh_key(key) == key
    assert check_ssh_key(f"  {key} me@there and more\n") == f"{key} me@there and more"
    assert request(ssh_keys=[key]).ssh_keys == [key]


@pytest.mark.parametrize("key", REAL_KEYS, ids=lambda key: key.split()[0])
def test_keys_that_were_cut_or_mixed_up_are_refused(key: str) -> None:
    kind, encoded = key.split()
    blob = base64.b64decode(encoded)
    for wrong in (blob[:-1], blob[: len(blob) // 2], blob + b"\0", b"\0", blob[4:]):
        with pytest.raises(ValueError, match="content does not match"):
            check_ssh_key(f"{kind} {base64.b64encode(wrong).decode()}")
    other = "ssh-rsa" if kind != "ssh-rsa" else "ssh-ed25519"
    with pytest.raises(ValueError, match="content does not match"):
        check_ssh_key(f"{other} {encoded}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-ed25519",
        "ssh-dss AAAAB3NzaC1kc3M=",
        "ssh-ed25519 not-base64!",
        "ssh-ed25519 AAAA",
        'command="rm -rf /" ' + ED25519,
        ED25519 + "\n" + ED25519,
        ED25519.replace(" ", "\u00a0"),  # sshd splits at spaces only
        ED25519.replace(" ", "\t"),
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        *(f"{ED25519} {text}" for text in HOSTILE if text.strip() == text),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SSH public key"):
        check_ssh_key(text)


@given(st.text(max_size=300))
def test_no_text_makes_the_key_check_fall(text: str) -> None:
    for candidate in (text, f"ssh-ed25519 {text}", f"{ED25519} {text}"):
        try:
            line = check_ssh_key(candidate)
        except ValueError:
            continue
        assert len(line.splitlines()) == 1


@given(st.binary(min_size=1, max_size=120))
def test_no_blob_makes_the_key_check_fall(blob: bytes) -> None:
    with pytest.raises(ValueError, match="content does not match"):
        check_ssh_key(f"ssh-rsa {base64.b64encode(blob).decode()}")


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_get_in_nowhere(text: str) -> None:
    for fields in (
        {"description": text},
        {"image": text},
        {"plan": text},
        {"packages": [text]},
        {"runcmd": [text]},
        {"runcmd": [["echo", text]]},
    ):
        assert refused(**fields)
    with pytest.raises(ValueError, match="control characters"):
        check_line(text)


@pytest.mark.parametrize("name", ["nginx", "g++", "libc6", "python3.11", "0ad", "libstdc++-12-dev"])
def test_package_names(name: str) -> None:
    assert check_package(name) == name


@pytest.mark.parametrize(
    "name", ["", "-y", "a b", "a;b", "A", "a=1", "../a", "a\n", "$(x)", "a" * 129, "ä"]
)
def test_no_package_names(name: str) -> None:
    with pytest.raises(ValueError, match="package name"):
        check_package(name)


@pytest.mark.parametrize(
    "user_data",
    [
        None,
        "#!/bin/sh\necho hello\n",
        "#!/usr/bin/env python3",
        "#cloud-config\n",
        "#cloud-config\npackages: [nginx]\n",
        "#cloud-config\n{runcmd: [[echo, 'a: b']]}\n",
        "#cloud-config\na: " + "[" * 31 + "]" * 31,
    ],
)
def test_user_data(user_data: str | None) -> None:
    assert request(user_data=user_data).user_data == user_data


@pytest.mark.parametrize(
    ("user_data", "reason"),
    [
        ("", "starts with"),
        ("echo hello", "starts with"),
        ("\n#cloud-config\n", "starts with"),
        ("Content-Type: multipart/mixed", "starts with"),
        ("#cloud-config\n- a\n- b\n", "a YAML mapping"),
        ("#cloud-config\nplain\n", "a YAML mapping"),
        ("#cloud-config\na: [\n", "not valid YAML"),
        ("#cloud-config\na: !!python/object/apply:os.system [id]\n", "not valid YAML"),
        ("#cloud-config\na: \x00\n", "not valid YAML"),
        ("#cloud-config\na: " + "[" * 5000 + "]" * 5000, "nested deeper than 32"),
        ("#cloud-config\na: " + "[" * 400 + "]" * 400, "nested deeper than 32"),
        ("#cloud-config\na: " + "[" * 33 + "]" * 33, "nested deeper than 32"),
        ("#cloud-config\na: &a\n- *a\n", "aliases"),
        (BOMB, "aliases"),
        ("#!/bin/sh\n\x00", "NUL"),
        ("#!" + "x" * 65536, "65536"),
    ],
)
def test_user_data_that_no_guest_would_understand(user_data: str, reason: str) -> None:
    assert reason in refused(user_data=user_data)


@given(st.text(max_size=400))
def test_no_user_data_makes_validation_fall(text: str) -> None:
    for prefix in ("", "#cloud-config\n", "#!"):
        try:
            request(user_data=prefix + text)
        except ValidationError:
            continue


@pytest.mark.parametrize(
    "fields",
    [
        {"disk_gib": 0},
        {"disk_gib": 65537},
        {"ssh_keys": [ED25519] * 33},
        {"packages": ["a"] * 257},
        {"runcmd": ["a"] * 257},
        {"description": "a" * 1025},
        {"unknown": 1},
        {"roles": [{"name": "../../etc"}]},
        {"roles": [{"name": "web", "become": True}]},
    ],
)
def test_limits(fields: dict[str, Any]) -> None:
    assert refused(**fields)


def test_the_other_requests() -> None:
    assert RoleRequest(name="web").variables == {}
    assert StopRequest(agent_seconds=0).agent_seconds == 0
    with pytest.raises(ValidationError):
        StopRequest(acpi_seconds=-1)
    assert set(REQUESTS) == set(Verb)
    for verb in Verb:
        assert REQUESTS[verb].model_config["extra"] == "forbid"
        flow = str(verb) if "-" in verb else f"{verb}-server"
        assert deployment_name(verb) == f"{flow}/{flow}"
