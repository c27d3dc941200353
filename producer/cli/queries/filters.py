"""The options that choose results, and the filter that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scanfleet.producer.cli.options import note, read_time
from scanfleet.producer.cli.tables import count
from scanfleet.producer.reports.failures import REASONS

if TYPE_CHECKING:
    import sqlalchemy as sa

    from scanfleet.db.results.results import ResultFilter

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
NO_TIME = timedelta(0)

_OF_IMAGES = (
    click.option(
        "--scan",
        multiple=True,
        metavar="SCAN",
        help="Only this scan. Default: all; the answers of a rescan are shown in the scan that it renews.",
    ),
    click.option("--check", multiple=True, metavar="NAME", help="Asked by this check."),
    click.option("--model", multiple=True, metavar="MODEL", help="Of scans with this model."),
    click.option("--prefix", metavar="TEXT", help="Whose uri starts with TEXT."),
    click.option(
        "--where",
        multiple=True,
        metavar="COLUMN=VALUE",
        help="With this value in a column of the manifest; --where campaign= finds those without one.",
    ),
)
_OF_ANSWERS = (
    click.option(
        "--state",
        multiple=True,
        type=click.Choice(["pending", "verdict", "failed", "cancelled"]),
        help="In this state.",
    ),
    click.option("--label", multiple=True, metavar="LABEL", help="With this answer."),
    click.option("--decision", multiple=True, type=click.Choice(["clear", "review", "flag"]), help="So decided."),
    click.option("--min-score", type=float, metavar="P", help="With at least this score."),
    click.option("--max-score", type=float, metavar="P", help="With at most this score."),
    click.option(
        "--adapter",
        multiple=True,
        metavar="ADAPTER",
        help="Answered by this adapter: an id, the first letters of its SHA-256, or none (a base alone).",
    ),
    click.option("--reason", multiple=True, metavar="REASON", help="Failed for this reason."),
    click.option(
        "--since",
        callback=read_time,
        metavar="TIME",
        help="Whose answer or state changed since then: 2026-05-01T13:30, or 24h ago.",
    ),
    click.option(
        "--as-of", callback=read_time, metavar="TIME", help="What was said at that time, before later rescans."
    ),
)


def image_options(command: FunctionT) -> FunctionT:
    """Add the options that choose images, whatever was answered."""
    return _with(command, _OF_IMAGES)


def wanted_options(command: FunctionT) -> FunctionT:
    """Add the options that choose results. Most may be given several times: one of the values."""
    return _with(command, (*_OF_IMAGES, *_OF_ANSWERS))


def _with(command: FunctionT, options: Sequence[Callable[[FunctionT], FunctionT]]) -> FunctionT:
    for option in reversed(options):
        command = option(command)
    return command


def read_filter(engine: sa.Engine, wanted: dict[str, Any], *, overlap: timedelta = NO_TIME) -> ResultFilter:
    """Return the filter of the options, with whole names, and say what a bound of the score leaves out.

    overlap: how far --since looks back further, for readers that collect what is new. Raises UnknownName for a scan,
    check, model, adapter or reason that is not there; RequestError for a --where that is none.
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.listing import count_uncalibrated

    found = resolve_filter(engine, wanted)
    if found.since is not None:
        found = _earlier(found, overlap)
    with reading(engine, long=True) as connection:
        bounded = found.min_score is not None or found.max_score is not None
        n_left_out = count_uncalibrated(connection, found) if bounded else 0
    if n_left_out:
        note(f"{count(n_left_out, 'answer')} without a calibrated score left out by --min-score or --max-score")
    return found


def resolve_filter(engine: sa.Engine, wanted: dict[str, Any]) -> ResultFilter:
    """Return the filter of the options, with whole names. Raises UnknownName and RequestError as `read_filter`."""
    from scanfleet.db.engine import reading
    from scanfleet.db.results.results import ResultFilter

    with reading(engine, long=True) as connection:
        return ResultFilter(**(wanted | _resolved(connection, wanted)))


def _earlier(found: ResultFilter, overlap: timedelta) -> ResultFilter:
    from dataclasses import replace

    return replace(found, since=found.since and found.since - overlap)


def _resolved(connection: sa.Connection, wanted: dict[str, Any]) -> dict[str, Any]:
    from scanfleet.db.scans.scans import get_scan, names_in_scans

    given = {name: wanted.get(name) or () for name in ("scan", "check", "model", "adapter", "reason", "where")}
    known = names_in_scans(connection) if given["check"] or given["model"] else {}
    for kind in ("check", "model"):
        _require_known(kind, given[kind], known.get(kind, ()))
    _require_reasons(connection, given["reason"])
    return {
        "scan": tuple(get_scan(connection, scan).id for scan in given["scan"]),
        "adapter": tuple(_adapters(connection, given["adapter"])),
        "where": tuple(read_where(text) for text in given["where"]),
    }


def _require_known(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    from scanfleet.errors import UnknownName

    for name in given:
        if name not in known:
            raise UnknownName(f"--{kind} {name}: no scan has this {kind}; there are: {', '.join(known) or 'none'}")


def _require_reasons(connection: sa.Connection, given: Sequence[str]) -> None:
    """A reason that this version does not know may be that of another version's worker."""
    from scanfleet.db.results.results import has_failed_for
    from scanfleet.errors import UnknownName

    for reason in given:
        if reason not in REASONS and not has_failed_for(connection, reason):
            raise UnknownName(f"--reason {reason}: there is no such reason; known: {', '.join(REASONS)}")


def _adapters(connection: sa.Connection, given: Sequence[str]) -> list[int | None]:
    from scanfleet.db.training.adapters import adapters_named

    found: list[int | None] = []
    for name in given:
        found += [None] if name == "none" else adapters_named(connection, name)
    return found


def read_where(text: str) -> tuple[str, str]:
    """Return (column, value); the column may have `meta.` before it, as in exports. Raises RequestError."""
    from scanfleet.errors import RequestError

    key, equals, value = text.partition("=")
    key = key.removeprefix("meta.")
    if not equals or not key:
        raise RequestError(f"--where {text}: write a column of the manifest and its value, as in campaign=spring")
    return key, value


def as_listed(uri: str) -> str:
    """Return a path as the ledger stores it: absolute, its folder without links."""
    if "://" in uri:
        return uri
    path = Path(uri).expanduser().absolute()
    return str(path.parent.resolve() / path.name)
