"""Read recipe.toml, the numbers of the training."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def load_recipe(path: Path | None = None) -> dict[str, Any]:
    """Return the recipe in `path`, or the shipped one."""
    return tomllib.loads((path or Path(__file__).parent / "recipe.toml").read_text(encoding="utf-8"))
