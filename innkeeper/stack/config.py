"""What the stack of one home is made of, kept in `<home>/stack.json` (0600)."""

import hashlib
import json
import os
import secrets
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from innkeeper.settings import Settings

POSTGRES_USER = "postgres"
SHARED_CLUSTERS = Path("/var/lib/innkeeper/clusters")
HOME_MODE = 0o711
LONGEST_SOCKET = 90  # sun_path holds 108 bytes; supervisord appends its pid while binding


@dataclass(frozen=True)
class StackConfig:
    """Addresses and passwords of one stack. The names that `Settings` knows are read by it."""

    database_url: str
    bind: str
    postgres_port: int
    prefect_port: int
    api_port: int
    postgres_data: str
    postgres_password: str
    innkeeper_password: str
    prefect_password: str

    @property
    def prefect_database_url(self) -> str:
        """Prefect's database, in the dialect that Prefect wants."""
        place = f"{self.bind}:{self.postgres_port}"
        return f"postgresql+asyncpg://prefect:{self.prefect_password}@{place}/prefect"

    @property
    def superuser_conninfo(self) -> str:
        """Connection string of the cluster's superuser, for set-up only."""
        place = f"{self.bind}:{self.postgres_port}"
        return f"postgresql://{POSTGRES_USER}:{self.postgres_password}@{place}/postgres"


def innkeeper_database_url(bind: str, port: int, password: str) -> str:
    """Return the URL of Innkeeper's own database in the stack's cluster."""
    return f"postgresql+psycopg://innkeeper:{password}@{bind}:{port}/innkeeper"


def read_stack(home: Path) -> StackConfig | None:
    """Return what an earlier `up` recorded in `home`, or None."""
    try:
        values = json.loads((home / "stack.json").read_text())
        return StackConfig(**{f.name: values[f.name] for f in fields(StackConfig)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure_stack(chosen: Settings) -> StackConfig:
    """Return the stack's configuration for these settings; write it when new or changed.

    Passwords and the place of the cluster are kept; ports and a database that is not ours follow
    the settings.
    """
    home = chosen.home
    prepare_home(home)
    known = read_stack(home)
    own_database = owns_database(chosen)
    password = known.innkeeper_password if known else secrets.token_urlsafe(24)
    config = StackConfig(
        database_url=(
            innkeeper_database_url(chosen.bind, chosen.postgres_port, password)
            if own_database
            else _database_url(chosen, known)
        ),
        bind=chosen.bind,
        postgres_port=chosen.postgres_port,
        prefect_port=chosen.prefect_port,
        api_port=chosen.api_port,
        postgres_data=known.postgres_data if known else str(cluster_folder(home)),
        postgres_password=known.postgres_password if known else secrets.token_urlsafe(24),
        innkeeper_password=password,
        prefect_password=known.prefect_password if known else secrets.token_urlsafe(24),
    )
    if config != known:
        write_private(home / "stack.json", json.dumps(asdict(config), indent=2) + "\n")
    return config


def owns_database(chosen: Settings) -> bool:
    """Tell whether the stack runs the database itself.

    It does, unless DATABASE_URL named another one (an SQLite file for a trial, or a server) at the
    first `up` or names one now. The choice is kept in stack.json.
    """
    known = read_stack(chosen.home)
    if known is None:
        return not _names_database(chosen)
    return f"innkeeper:{known.innkeeper_password}@" in _database_url(chosen, known)


def _names_database(chosen: Settings) -> bool:
    """Tell whether somebody chose the database: the default is what nobody has to name."""
    default = f"sqlite:///{chosen.home / 'innkeeper.db'}"
    return chosen.database_url != default or bool(os.environ.get("DATABASE_URL"))


def _database_url(chosen: Settings, known: StackConfig | None) -> str:
    if known and not _names_database(chosen):
        return known.database_url
    return chosen.database_url


def prepare_home(home: Path) -> None:
    """Make the home: others may pass through (the database runs as its own user), not look in."""
    home.mkdir(parents=True, exist_ok=True)
    if stat.S_IMODE(home.stat().st_mode) != HOME_MODE:
        home.chmod(HOME_MODE)
    for name in ("logs", "prefect", "run"):
        (home / name).mkdir(mode=0o700, exist_ok=True)


def cluster_folder(home: Path) -> Path:
    """Return where the PostgreSQL cluster of this home belongs.

    PostgreSQL refuses to run as root, and its own user cannot pass through folders like /root;
    then the cluster lives beside, in a folder named after the home.
    """
    if os.geteuid() != 0 or all(p.stat().st_mode & stat.S_IXOTH for p in (home, *home.parents)):
        return home / "pg"
    return SHARED_CLUSTERS / mark(home)


def mark(home: Path) -> str:
    """Return the short name that tells this home's processes from those of another."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]


def socket_path(home: Path) -> Path:
    """Return supervisord's socket: in the home, or in a short private place when that is long."""
    path = home / "run" / "supervisor.sock"
    if len(str(path)) <= LONGEST_SOCKET:
        return path
    shared = "/run" if os.geteuid() == 0 else "/tmp"  # noqa: S108 - the folder below is ours
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or shared)
    return runtime / f"innkeeper-{os.geteuid()}-{mark(home)}" / "supervisor.sock"


def write_private(path: Path, text: str) -> None:
    """Replace `path` at once with `text`, readable by its owner only."""
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)
