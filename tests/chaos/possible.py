"""What a run can do on this machine. Imports nothing that starts a thread: a process with several gets no namespace."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from tests.chaos.fleet.disk import own_mounts
from tests.chaos.options import Options
from tests.services import ServiceMissingError
from tests.services.pgbouncer import find_program

FULL, POOLER = "_full", "pooler_"  # parts of the names of kinds


def possible(options: Options, say: Callable[[str], None]) -> Options:
    """Take this process to mounts of its own, and leave out what the machine lacks.

    Where CI is set, nothing may be lacking. Raises ServiceMissingError.
    """
    for part, find in ((FULL, own_mounts), (POOLER, find_program)):
        try:
            find()
        except ServiceMissingError as error:
            options = _without(part, options)
            if os.environ.get("CI") or not options.kinds:
                raise
            say(f"left out: {error}")
    return options if options.n_pooled else _without(POOLER, options)


def _without(part: str, options: Options) -> Options:
    kinds = tuple(kind for kind in options.kinds if part not in kind)
    return dataclasses.replace(options, kinds=kinds, pooled=0 if part == POOLER else options.pooled)
