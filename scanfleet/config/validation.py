"""Messages for problems that pydantic finds in a file or a setting.

They never quote the wrong value: it may be a secret.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import ErrorDetails

SHORT_LIST = 12  # names listed in one line at most

_NUMBER, _WHOLE, _TEXT, _SWITCH = "must be a number", "must be a whole number", "must be text", "must be true or false"


def _figure(limit: float) -> str:
    """Format a whole number with all its digits, without a point."""
    return str(int(limit) if limit == int(limit) else limit)


_WORDS: dict[str, str | Callable[[dict[str, Any]], str]] = {
    "missing": "is missing",
    "bool_parsing": _SWITCH,
    "bool_type": _SWITCH,
    "dict_type": "must be a table of label = words",
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": lambda limits: f"must be more than {limits['gt']:g}",
    "greater_than_equal": lambda limits: f"must be at least {_figure(limits['ge'])}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "less_than": lambda limits: f"must be less than {limits['lt']:g}",
    "less_than_equal": lambda limits: f"must be at most {_figure(limits['le'])}",
    "literal_error": lambda limits: f"must be {limits['expected']}",
    "string_pattern_mismatch": lambda limits: f"must match {limits['pattern']}",
    "string_too_long": lambda limits: f"must have at most {limits['max_length']} characters",
    "string_too_short": lambda limits: f"must have at least {limits['min_length']} characters",
    "string_type": _TEXT,
    "too_long": lambda limits: f"must have at most {limits['max_length']} entries",
    "too_short": lambda limits: f"must have at least {limits['min_length']} entries",
    "tuple_type": "must be a list of texts",
}


def explain(problem: ErrorDetails, *, known: Iterable[str] = ()) -> str:
    """Return what is wrong and what is allowed. known: the valid names, for a suggestion."""
    if problem["type"] == "extra_forbidden":
        return f"is not known{suggestion(str(problem['loc'][-1]), known)}"
    words = _WORDS.get(problem["type"])
    if words is None:
        return problem["msg"].removeprefix("Value error, ")
    return words if isinstance(words, str) else words(problem.get("ctx", {}))


def printable(text: str) -> str:
    """Escape line ends and other unprintable characters, so that a text from a file fits into a message.

    >>> printable("a\\nb\\x1b[2Jc")
    'a\\\\nb\\\\x1b[2Jc'
    """
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean x?)` for the nearest name, else ` (there are x, y)` if that is a short list.

    >>> suggestion("pockt", ["pocket", "other"]), suggestion("zzz", ["a", "b"])
    (' (did you mean pocket?)', ' (there are a, b)')
    """
    names = list(known)
    near = nearest(word, names)
    if near is not None:
        return f" (did you mean {near}?)"
    return f" (there are {', '.join(names)})" if 0 < len(names) <= SHORT_LIST else ""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` is probably a typo of."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1)), None)
