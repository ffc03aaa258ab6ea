"""No module of ours needs one that needs it: whichever a program imports first, it starts."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("innkeeper", "tasks", "flows", "deployments")


def _needs() -> dict[str, set[str]]:
    """Return which of our modules each one imports when it is imported itself."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for top in TOPS
        for path in (ROOT / top).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        wanted: set[str] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                parts = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= {part if part in paths else node.module for part in parts.values()}
        found[name] = (wanted & paths.keys()) - {name}
    return found


def test_imports_go_one_way() -> None:
    needs = _needs()
    assert "innkeeper.services.resizing" in needs["innkeeper.services.planning"]
    TopologicalSorter(needs).prepare()  # CycleError names the modules
