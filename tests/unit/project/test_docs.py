"""What the pages name is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_tests_that_the_pages_name_exist() -> None:
    named = {
        (page.name, name)
        for page in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`((?:unit|integration|acceptance)/[\w/]+\.py)`", page.read_text(encoding="utf-8"))
    }
    assert named
    assert [(page, name) for page, name in sorted(named) if not (ROOT / "tests" / name).exists()] == []
