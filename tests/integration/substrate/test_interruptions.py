"""Terraform killed, stopped, and asked for by several at once."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from substrates import a_network, both, terraforms

from innkeeper.errors import PermanentError, TransientError
from innkeeper.lab.fleet import LabHost
from innkeeper.substrate import (
    HostSubstrate,
    NetworkSubstrate,
    Terraform,
    drift,
    ensure_host,
    ensure_network,
    is_present,
    remove,
    state_holds,
)
from innkeeper.substrate.failure import SubstrateBusy, TerraformInterrupted


def test_terraform_killed_in_mid_apply_is_taken_up(host: HostSubstrate, folder: Path) -> None:
    big = folder / "big.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=falloc"]
    subprocess.run([*create, str(big), "1G"], check=True)
    spec = replace(host, images={"image-big.qcow2": big})
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(ensure_host, spec)
        until = time.monotonic() + 60
        while not is_present(replace(spec, images={})) or not terraforms("apply"):
            assert time.monotonic() < until
            time.sleep(0.01)
        for process in terraforms("apply"):
            for child in process.children(recursive=True):
                child.send_signal(signal.SIGKILL)
            process.send_signal(signal.SIGKILL)
        with pytest.raises((TransientError, PermanentError)):
            killed.result()
    ensure_host(spec)
    assert is_present(spec)
    assert len(state_holds(spec)) == 2
    assert not drift(spec).changed


def test_a_killed_worker_leaves_terraform_to_finish(
    host: HostSubstrate, network: NetworkSubstrate
) -> None:
    program = (
        "import sys, uuid; from innkeeper.substrate import *;"
        "h, p, u, n, b, c = sys.argv[1:];"
        "ensure_network(NetworkSubstrate(uuid.UUID(h), uuid.UUID(p), u, n, b, c),"
        "on_plan=lambda text: print('planned', flush=True))"
    )
    spec = [network.uri, network.name, network.bridge, network.cidr]
    argv = [sys.executable, "-c", program, str(network.host_id), str(network.project_id), *spec]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "planned\n"
        worker.kill()
    ensure_network(network)
    assert is_present(network)
    assert state_holds(network) == ["module.network.libvirt_network.this"]


@both
def test_many_new_workspaces_at_once(home: Path, lab_host: LabHost) -> None:
    specs = [a_network(lab_host, uuid4(), number) for number in range(20, 24)]
    with ThreadPoolExecutor(len(specs)) as pool:
        assert all(applied.changed for applied in pool.map(ensure_network, specs))
        assert all(pool.map(remove, specs))
    assert not {spec.workspace for spec in specs} & set(Terraform().workspaces())


@both
def test_one_workspace_at_once_takes_turns(network: NetworkSubstrate) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: ensure_network(network), range(3)))
    assert sorted(applied.changed for applied in done) == [False, False, True]
    with (
        Terraform().backend.exclusive(network.workspace, 1),
        pytest.raises(SubstrateBusy),
    ):
        ensure_network(network, deadline_seconds=0.3)


def test_a_deadline_stops_terraform(network: NetworkSubstrate) -> None:
    ensure_network(network)
    with pytest.raises(TerraformInterrupted, match="did not end in its time"):
        drift(network, deadline_seconds=0.05)
    assert not terraforms("plan")
    ensure_network(network)
