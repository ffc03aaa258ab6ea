"""Files of guests that outlived their domain: found, and removed if they are ours and old."""

import os
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from conftest import Catalogue
from hypothesis import given
from hypothesis import strategies as st
from journaled import active

from innkeeper.db.models import Host, Server
from innkeeper.db.session import transaction
from innkeeper.domain import naming
from innkeeper.domain.lifecycle import Verb
from innkeeper.host.local import LocalChannel
from innkeeper.services import accept, hostfiles, reconcile
from innkeeper.services.expectation import expectation
from innkeeper.services.findings import Finding

sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Folder:
    """What lies on a host, two servers of which are here and elsewhere."""

    def __init__(self, catalogue: Catalogue, path: Path) -> None:
        self.path = path
        catalogue.set_hosts("beta", enabled=False)
        self.here = active(catalogue, "here")
        catalogue.set_hosts("beta", enabled=True)
        catalogue.set_hosts("alpha", enabled=False)
        self.away = active(catalogue, "away")
        catalogue.set_hosts("alpha", enabled=True)
        self.host_id = catalogue.host_ids["alpha"]
        catalogue.set_hosts(channel="local:")

    def put(self, name: str, *, minutes: int = 60) -> str:
        path = self.path / name
        path.write_bytes(b"variables")
        then = time.time() - 60 * minutes
        os.utime(path, (then, then))
        return str(path)

    def memory(self, server_id: UUID, name: str) -> str:
        return naming.nvram_file(naming.domain_name(server_id, name)).rpartition("/")[2]

    def found(self, *domains: str) -> list[Finding]:
        """Return what is found on the host; only real ones are looked at."""
        with transaction() as session:
            session.get_one(Host, self.host_id).virt_type = "qemu"
        return hostfiles.strays(expectation(self.host_id), set(domains))

    def reap(self, *domains: str) -> set[str]:
        """Have reconcile remove what it may; return what is left."""
        stuck = reconcile.reap(self.host_id, self.found(*domains)).stuck
        assert stuck == {}
        return {path.name for path in self.path.iterdir()}


@pytest.fixture
def folder(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    for name in ("NVRAM_FOLDER", "CONSOLE_FOLDER"):
        monkeypatch.setattr(hostfiles, name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    return Folder(catalogue, tmp_path / "NVRAM_FOLDER")


@sqlite
def test_a_half_that_a_killed_writer_left_is_found_and_removed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = folder.path / folder.memory(folder.here, "here")
    run = LocalChannel.run

    class Killed(BaseException):
        pass

    def dies(channel: LocalChannel, argv: Any, *more: Any, **named: Any) -> Any:
        if argv[0] in {"mv", "rm"}:  # killed: nobody tidies up either
            raise Killed
        return run(channel, argv, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(LocalChannel, "run", dies)
        with pytest.raises(Killed):
            LocalChannel().write_file(str(whole), b"variables")
    (half,) = folder.path.iterdir()
    assert naming.half_of(str(half)) == str(whole)
    assert folder.found() == [], "it may still be written to"
    folder.put(half.name)
    (told,) = folder.found()
    assert (told.kind, told.name, told.server_id, told.reapable) == (
        "half-written-file",
        str(half),
        folder.here,
        True,
    )
    assert folder.reap() == set()


@sqlite
def test_the_memory_of_a_server_that_is_elsewhere_goes_and_of_others_stays(folder: Folder) -> None:
    names = {
        "elsewhere": folder.memory(folder.away, "away"),
        "its domain is missing": folder.memory(folder.here, "here"),
        "a stranger's": folder.memory(uuid4(), "away"),
        "a stranger's half": f".{folder.memory(uuid4(), 'away')}.0123abcd",
    }
    for name in names.values():
        folder.put(name)
    told = {one.name.rpartition("/")[2]: one.reapable for one in folder.found()}
    assert told == {name: why == "elsewhere" for why, name in names.items()}
    assert folder.reap() == set(names.values()) - {names["elsewhere"]}
    domain = names["a stranger's"].removesuffix("_VARS.fd")
    assert names["a stranger's"] not in {
        one.name.rpartition("/")[2] for one in folder.found(domain)
    }


@sqlite
def test_what_was_written_just_now_stays(folder: Folder) -> None:
    name = folder.memory(folder.away, "away")
    folder.put(name, minutes=0)
    (told,) = folder.found()
    assert not told.reapable
    old = Finding("alpha", hostfiles.NVRAM, told.name, "", folder.away, reapable=True)
    reconcile.reap(folder.host_id, [old])
    assert folder.reap() == {name}


@sqlite
def test_of_a_server_that_comes_nothing_is_removed(folder: Folder) -> None:
    name = folder.memory(folder.away, "away")
    folder.put(name)
    folder.put(f".{name}.0123abcd")
    found = folder.found()
    assert [one.reapable for one in found] == [True, True]
    accept.request(Verb.STOP, folder.away, project_id=None, actor="me")
    reconcile.reap(folder.host_id, found)
    assert folder.reap() == {name}, "of halves nobody has any use"


@sqlite
@pytest.mark.parametrize(("status", "kept"), [("deleted", False), ("shelved", True)])
def test_of_a_shelved_server_it_goes_if_the_database_has_it(
    folder: Folder, status: str, kept: bool
) -> None:
    name = folder.memory(folder.here, "here")
    folder.put(name)
    with transaction() as session:
        session.get_one(Server, folder.here).status = status
    assert folder.reap() == ({name} if kept else set())
    with transaction() as session:
        session.get_one(Server, folder.here).nvram = b"packed"
    assert folder.reap() == set()


@given(st.text("abc-XYZ09 ._", max_size=50), st.uuids())
def test_whose_memory_it_is_stands_in_its_name(name: str, server_id: UUID) -> None:
    path = naming.nvram_file(naming.domain_name(server_id, name))
    assert naming.nvram_owner(path) == naming.short(server_id)
    assert naming.half_of(path) is None
    folder, _, last = path.rpartition("/")
    assert naming.half_of(f"{folder}/.{last}.0a1b2c3d") == path
