"""Substrates to apply to a lab host, and the Terraform processes that do it."""

import subprocess
from itertools import count
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from innkeeper.lab.fleet import LabHost
from innkeeper.substrate import NetworkSubstrate

CANARY = "canary-hunter2"
numbers = count(100)


def make_image(path: Path) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "64M"], check=True)
    return path


both = pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
"""For what depends on how states are kept; the rest runs with files only."""


def a_network(lab_host: LabHost, project: UUID, number: int) -> NetworkSubstrate:
    return NetworkSubstrate(
        host_id=UUID("aaaaaaaa-0000-4000-8000-000000000000"),
        project_id=project,
        uri=lab_host.uri,
        name=f"innkeeper-{project.hex[:8]}",
        bridge=f"ik-{project.hex[:8]}",
        cidr=f"10.79.{number}.0/24",
    )


def terraforms(command: str) -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [p for p in mine if p.status() != "zombie" and command in p.cmdline()[1:2]]
