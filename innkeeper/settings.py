"""Settings: environment first, then what `innkeeper stack up` wrote down, then defaults."""

import json
import os
import re
import shutil
import tempfile
from functools import lru_cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.fernet import Fernet
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from innkeeper.errors import PermanentError


class InvalidSettings(PermanentError):
    """The environment, or the stack's file, has a value that makes no sense."""

    status = 500
    slug = "invalid-settings"
    title = "Invalid settings"


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "innkeeper"


def _network(text: str) -> str:
    network = IPv4Network(text)
    if network.prefixlen > 24:  # noqa: PLR2004 - what a project's network on a host takes
        raise ValueError("it has to hold at least one /24 network")
    return str(network)


def _ports(given: Any) -> Any:
    words = re.findall(r"\d+", given) if isinstance(given, str) else list(given)
    first, last = [int(word) for word in words] if len(words) == 2 else (0, 0)  # noqa: PLR2004
    if not 1 <= first <= last <= 65535:  # noqa: PLR2004 - TCP's last port
        raise ValueError("it has to be the first and the last of some TCP ports, as 2200-2299")
    return first, last


class StackFile(PydanticBaseSettingsSource):
    """Values that the stack wrote to `stack.json` (0600) in the home: addresses and passwords."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Unused: `__call__` answers for all fields at once."""
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the recorded settings, or nothing when no stack was set up here."""
        home = Path(os.environ.get("INNKEEPER_HOME") or _xdg("XDG_STATE_HOME", ".local/state"))
        try:
            values = json.loads((home / "stack.json").read_text())
        except (FileNotFoundError, PermissionError):
            return {}
        return {k: v for k, v in values.items() if k in self.settings_cls.model_fields}


class Settings(BaseSettings):
    """All settings, each with its unit in the name where it has one."""

    model_config = SettingsConfigDict(env_prefix="INNKEEPER_", extra="ignore")

    home: Path = Field(default_factory=lambda: _xdg("XDG_STATE_HOME", ".local/state"))
    cache: Path = Field(default_factory=lambda: _xdg("XDG_CACHE_HOME", ".cache"))
    database_url: str = Field(
        default="", validation_alias=AliasChoices("DATABASE_URL", "database_url")
    )
    prefect_api_url: str = Field(
        default="", validation_alias=AliasChoices("PREFECT_API_URL", "prefect_api_url")
    )
    bind: str = "127.0.0.1"
    postgres_port: int = 5499
    prefect_port: int = 4280
    api_port: int = 8480
    accelerator: Literal["auto", "kvm", "qemu"] = "auto"
    cpu_overcommit: float = Field(default=2.0, gt=0)
    memory_overcommit: float = Field(default=1.0, gt=0)
    memory_headroom: float = Field(default=1.0, ge=1.0, le=16.0)
    forward_ports: Annotated[tuple[int, int], NoDecode, BeforeValidator(_ports)] = (2200, 2299)
    guest_networks: Annotated[str, AfterValidator(_network)] = "10.64.0.0/12"
    worker_limit: int = 10
    disk_copies: int = Field(default=2, ge=1)  # at once on a host
    verifications: int = Field(default=2, ge=1)  # of snapshots, at once on a host
    verify_seconds: float = Field(default=180.0, gt=0)
    verify_memory_mib: int = Field(default=1024, ge=64)
    rate_limit: str = "600/minute"
    agent_stop_seconds: float = 30.0
    acpi_stop_seconds: float = 60.0
    reachable_seconds: float = 240.0
    configure_seconds: float = 900.0
    terraform_seconds: float = 300.0
    stale_after_seconds: float = 30.0
    image_size_limit_gib: int = 100
    shelf_folder: Path | None = Field(
        default=None, validation_alias=AliasChoices("INNKEEPER_SHELF", "shelf_folder")
    )
    shelf_compression: Literal["zstd", "zlib"] = "zstd"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment wins over the stack's file."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, StackFile(settings_cls)

    def model_post_init(self, _context: Any, /) -> None:
        """Fill the addresses that depend on others."""
        self.database_url = self.database_url or f"sqlite:///{self.home / 'innkeeper.db'}"
        if self.database_url.startswith("postgresql://"):
            self.database_url = "postgresql+psycopg://" + self.database_url.split("://", 1)[1]
        self.prefect_api_url = self.prefect_api_url or f"http://{self.bind}:{self.prefect_port}/api"

    @property
    def api_url(self) -> str:
        """Where the API of this stack answers."""
        return os.environ.get("INNKEEPER_API_URL") or f"http://{self.bind}:{self.api_port}"

    @property
    def identity_file(self) -> Path:
        """Innkeeper's own SSH private key; its public half is in every guest."""
        return self.home / "ssh" / "id_ed25519"

    @property
    def image_store(self) -> Path:
        """Folder of the verified images, one `<sha256>.qcow2` each."""
        return self.home / "images"

    @property
    def shelf(self) -> Path:
        """Folder of the compressed disks of shelved servers; in the home unless told otherwise."""
        return self.shelf_folder or self.home / "shelf"

    @property
    def terraform_binary(self) -> str:
        """Terraform that set-up chose, else the one on PATH."""
        chosen = self.cache / "terraform" / "bin" / "terraform"
        return str(chosen) if chosen.exists() else shutil.which("terraform") or "terraform"

    @property
    def terraform_cli_config(self) -> Path:
        """CLI configuration that names the provider mirror, made by set-up."""
        return self.cache / "terraform" / "terraformrc"

    def secret_key(self) -> bytes:
        """Return the Fernet key for secrets at rest; made on first use (file 0600 in the home)."""
        if key := os.environ.get("INNKEEPER_SECRET_KEY"):
            return key.encode()
        path = self.home / "secret.key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".secret.key.", dir=self.home)  # 0600
            fresh = Path(name)
            with os.fdopen(handle, "wb") as out:
                out.write(Fernet.generate_key())
            try:  # link refuses an existing name: of two first users only one key survives
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
            return path.read_bytes()


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process (read once).

    Raises:
        InvalidSettings: a value makes no sense.
    """
    try:
        return Settings()
    except ValidationError as error:
        fields = Settings.model_fields
        told = "; ".join(
            # The environment calls some by a name without our prefix.
            f"{name if name not in fields else f'INNKEEPER_{name.upper()}'}: {problem['msg']}"
            for problem in error.errors()
            for name in [str(problem["loc"][0])]
        )
        raise InvalidSettings(f"{told}. Correct the environment, or stack.json.") from None
