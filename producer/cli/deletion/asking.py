"""Shared by the commands that delete: ages, and asking before anything is gone."""

from __future__ import annotations

import re
import sys
from datetime import timedelta

import click

UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_AGE = re.compile(r"(\d{1,5})([hdw])")


class Age(click.ParamType):  # type: ignore[type-arg]
    """`90d`, `12h`, `4w`."""

    name = "age"

    def convert(self, value: str | timedelta, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = _AGE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r}: write a number with h, d or w, as in 90d", param, ctx)
        return int(found[1]) * UNITS[found[2]]


def require_yes(question: str, *, yes: bool) -> bool:
    """Ask a person unless they said --yes. Raises UsageError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("this deletes for good, and nobody can be asked here: see --dry-run, then give --yes")
    return click.confirm(question, err=True)
