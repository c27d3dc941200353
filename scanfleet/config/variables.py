"""SCANFLEET_* variables that name no setting: a typo is refused, an unknown name reported, an old name translated.

A fleet shares one environment, and its workers may be of different releases for a while.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, MutableMapping
from typing import Any

from scanfleet.config.validation import nearest, printable

PREFIX = "SCANFLEET_"
NO_SETTINGS = ("fake_seconds", "fake_poison")  # parameters of the fake model in tests (worker/scoring/model.py)
# Similarity from which on a name counts as a typo of the other. Kubernetes sets SCANFLEET_DATABASE_PORT for a service
# scanfleet-database, which is none: 0.80.
TYPO = 0.85

RENAMED = {  # old name -> new name; an old name works until the next release
    "ring_again_seconds": "renotify_seconds",
    "max_outstanding_rings": "max_outstanding_notifications",
    "train_look_seconds": "train_check_seconds",
}

log = logging.getLogger(__name__)  # writes to stderr also before the log is set up


def apply_renames(values: MutableMapping[str, Any], *, prefix: str = "") -> None:
    """Rename settings that are given under an old name, and warn of each. The new name wins where both are given."""
    for name in list(values):
        if not name.upper().startswith(prefix):
            continue
        new = RENAMED.get(name[len(prefix) :].lower())
        if new is not None:
            new = prefix + new.upper() if prefix else new
            log.warning("scanfleet: %s is now called %s: the old name works until the next release", name, new)
            values.setdefault(new, values.pop(name))


def find_typos(environment: MutableMapping[str, str], settings: Collection[str]) -> list[str]:
    """Return a message for each variable that is a mistyped setting.

    Other unknown variables are logged and removed, so that no child process logs them again.
    """
    typos = []
    for name in [name for name in environment if name.upper().startswith(PREFIX)]:
        word = name[len(PREFIX) :].lower()
        if word in settings or word in NO_SETTINGS:
            continue
        near = nearest(word, settings)
        meant = f" (did you mean {PREFIX}{near.upper()}?)" if near else ""
        if near and _is_typo(word, near):
            typos.append(f"{printable(name)}: is not known{meant}")
        else:
            log.warning("scanfleet: %s is not known%s: it has no effect", printable(name), meant)
            del environment[name]
    return typos


def _is_typo(word: str, setting: str) -> bool:
    """Count swapped letters as a typo too: they weigh much in a short name."""
    return sorted(word) == sorted(setting) or difflib.SequenceMatcher(None, word, setting).ratio() >= TYPO
