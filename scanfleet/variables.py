"""SCANFLEET_* variables that are no setting: a slip of the pen is refused, what a newer release may know is told.

A fleet shares one environment, and its workers are not all of one release at one time.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, MutableMapping

from scanfleet.faults import nearest, one_line

PREFIX = "SCANFLEET_"
NO_SETTINGS = ("fake_seconds", "fake_poison")  # what tests tell the fake model (worker/model.py)
SLIP = 0.8  # likeness of two names from which on one is the other, mistyped

log = logging.getLogger(__name__)  # writes to stderr also before the log is set up


def find_slips(environment: MutableMapping[str, str], settings: Collection[str]) -> list[str]:
    """What is wrong with each variable that is the name of a setting mistyped.

    Others are warned of, and taken out, so that no child process warns again.
    """
    slips = []
    for name in [name for name in environment if name.upper().startswith(PREFIX)]:
        word = name[len(PREFIX) :].lower()
        if word in settings or word in NO_SETTINGS:
            continue
        near = nearest(word, settings)
        meant = f" (did you mean {PREFIX}{near.upper()}?)" if near else ""
        if difflib.get_close_matches(word, settings, n=1, cutoff=SLIP):
            slips.append(f"{one_line(name)}: is not known{meant}")
        else:
            log.warning("scanfleet: %s is not known%s: it has no effect", one_line(name), meant)
            del environment[name]
    return slips
