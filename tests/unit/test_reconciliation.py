"""What reconciliation does on the worker's own machine."""

import os
from pathlib import Path

from innkeeper.configuration import rundir
from innkeeper.images.fetch import incoming
from innkeeper.settings import settings
from tasks import reconciliation


def test_what_killed_runs_left_on_this_machine_is_removed(home: Path) -> None:
    run = rundir.place() / "innkeeper-ansible-killed"
    run.mkdir()
    (run / "owner").touch()
    store = settings().image_store
    with incoming("http://host/old", store) as old:
        (old / "content.part").write_bytes(b"x")
        for path in (old / "content.part", old):
            os.utime(path, (1, 1))
    with incoming("http://host/new", store) as new:
        (new / "content.part").write_bytes(b"x")
    assert reconciliation.sweep() == [old.name]
    assert not run.exists()
    assert (old.exists(), new.exists()) == (False, True)
