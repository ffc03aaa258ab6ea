"""What the demo does on a machine that has seen an earlier version."""

from typing import Any

import pytest

from innkeeper.cli import demo


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, "tiny"),
        ({"tiny": {"phase": "ready", "source": "/elsewhere/tiny-22aa.qcow2"}}, "tiny"),
        ({"tiny": {"phase": "failed", "source": "/cache/tiny-11ff.qcow2"}}, "tiny"),
        ({"tiny": {"phase": "ready", "source": "/cache/tiny-11ff.qcow2"}}, "tiny-22aa"),
    ],
)
def test_the_demo_leaves_an_older_image_alone(there: dict[str, Any], expected: str) -> None:
    assert demo.current_image("tiny", "/cache/tiny-22aa.qcow2", there) == expected
