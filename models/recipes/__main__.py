"""`python -m models.recipes`: whether a recipe takes some fields, for those who do not import it. Loads no torch.

Reads {"recipe": ..., "base_model": ..., "overrides": {...}} from stdin and answers with {"trains": [...]}, what the
recipes that this may come to train, or with {"fault": "one line"}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from models.errors import ModelInvalid
from models.recipes import possible_recipes


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        found = possible_recipes(asked["recipe"], asked["base_model"], overrides=asked["overrides"])
    except ModelInvalid as error:
        return {"fault": str(error)}
    return {"trains": sorted({recipe.trains for recipe in found})}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")
