"""`python -m scanfleet.models.recipes`: check a recipe's fields, for programs that do not import it. Loads no torch.

Reads {"recipe": ..., "base_model": ..., "overrides": {...}} from stdin. Answers {"trains": [...]}, what the possible
recipes train, with "order", the only one that they can train for, if there is one; or {"fault": "one line"}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from scanfleet.models.errors import ModelInvalid
from scanfleet.models.recipes import possible_recipes


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one decoded request."""
    try:
        found = possible_recipes(request["recipe"], request["base_model"], overrides=request["overrides"])
    except ModelInvalid as error:
        return {"fault": str(error)}
    order = {"order": "image-first"} if all(recipe.activated for recipe in found) else {}
    return {"trains": sorted({recipe.trains for recipe in found}), **order}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer(json.load(sys.stdin))) + "\n")
