"""Names of the columns that fields of manifests get in tables."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import count

PREFIX = "meta_"
DOTTED = "meta."  # before 0.2
MAX_LETTERS = 120  # warehouses take 127 and more


def column_names(fields: Iterable[str], taken: Collection[str], *, dotted: bool = False) -> dict[str, str]:
    """Return field -> column. Warehouses take letters of ASCII, digits and `_`, and do not tell A from a.

    Of fields with the same column, the first by name has it, and the others end with _2, _3 and so on. taken: by other
    columns. dotted: leave names as they are.

    >>> column_names(["price", "unit price", "unit-price"], taken=())
    {'price': 'meta_price', 'unit price': 'meta_unit_price', 'unit-price': 'meta_unit_price_2'}
    """
    if dotted:
        return {field: f"{DOTTED}{field}" for field in sorted(fields)}
    used = {name.lower() for name in taken}
    found = {}
    for field in sorted(fields):
        plain = PREFIX + re.sub("[^A-Za-z0-9_]", "_", field)[:MAX_LETTERS]
        names = (plain if number == 1 else f"{plain}_{number}" for number in count(1))
        found[field] = next(name for name in names if name.lower() not in used)
        used.add(found[field].lower())
    return found
