"""Innkeeper's own SSH key: in every guest, so that Ansible and checks can log in."""

import os
import tempfile
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from innkeeper.settings import settings


def ensure() -> None:
    """Make the key pair on first use; of two first users only one key survives."""
    path = settings().identity_file
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    fresh = Path(name)
    with os.fdopen(handle, "wb") as out:
        out.write(
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


@lru_cache(maxsize=1)
def public_key() -> str:
    """Return the public half on one line."""
    ensure()
    private = serialization.load_ssh_private_key(settings().identity_file.read_bytes(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return f"{public.decode()} innkeeper"
