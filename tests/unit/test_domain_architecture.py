"""docs/architecture.md shows the transition table as it is.

`INNKEEPER_REGENERATE_GOLDEN=1 pytest tests/unit/test_domain_architecture.py` draws it anew.
"""

import os
import re
from pathlib import Path

from innkeeper.domain.lifecycle import diagram

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
REGENERATE = "INNKEEPER_REGENERATE_GOLDEN"
_DRAWING = re.compile(r"(<!-- lifecycle: .*? -->\n)(.*?)(<!-- end of lifecycle -->)", re.DOTALL)


def _drawn() -> str:
    return f"```mermaid\n{diagram()}\n```\n"


def test_the_drawing_is_the_table() -> None:
    text = DOCUMENT.read_text()
    if os.environ.get(REGENERATE):
        text = _DRAWING.sub(lambda found: found[1] + _drawn() + found[3], text)
        DOCUMENT.write_text(text)
    found = _DRAWING.search(text)
    assert found is not None
    assert found[2] == _drawn(), f"the table has changed: run with {REGENERATE}=1"


def test_the_places_that_the_document_names_exist() -> None:
    named = set(re.findall(r"`((?:domain|services|db)/[a-z_]+\.py)`", DOCUMENT.read_text()))
    assert named
    assert [path for path in named if not (ROOT / "innkeeper" / path).exists()] == []
