"""`scanfleet results facets`: counts by decision, campaign, week, folder ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scanfleet.producer.cli.options import Flags, note
from scanfleet.producer.cli.queries.filters import read_filter, wanted_options
from scanfleet.producer.cli.queries.rows import echo_rows, form_option

if TYPE_CHECKING:
    from scanfleet.db.queries.facets import Facet

COUNTS = ("images", "answered", "flagged", "flag_share", "low", "high", "review", "failed")


@click.command()
@click.option("--by", required=True, metavar="A,B,...", help="What to count by; see above.")
@wanted_options
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Most lines to show.")
@form_option()
@click.pass_obj
def facets(flags: Flags, /, *, by: str, limit: int, form: str, **wanted: Any) -> None:
    """Count results by their fields.

    \b
    scan check model state decision label    a field; also
      adapter mode stage reason worker
    meta.campaign                            a column of the manifest
    week(scored_at) week(meta.published)     a span of time: hour, day, week
                                             (its Monday), month, year; UTC
    prefix(uri,2)                            the first folders of the name

    Flag shares are of the answered images, with their 95 % interval. Reads all
    images that match.

    \b
    Example:
      scanfleet results facets --by meta.campaign,week(scored_at)
      scanfleet results facets --by prefix(uri,2),reason --state failed
    """
    from scanfleet.db.engine import reading
    from scanfleet.db.queries.dimensions import read_dimensions
    from scanfleet.db.queries.facets import count_by

    dimensions = read_dimensions(by)
    with flags.ledger(only_reads=True) as engine:
        chosen = read_filter(engine, wanted)
        with reading(engine, long=True) as connection:
            found = count_by(connection, chosen, dimensions, limit=limit + 1)
    names = [dimension.name for dimension in dimensions]
    echo_rows([*names, *COUNTS], [_row(facet) for facet in found[:limit]], form=form, below=("low", "high"))
    if not found:
        note("no image matches")
    if len(found) > limit:
        note(f"only the first {limit} lines are shown: --limit shows more")


def _row(facet: Facet) -> list[Any]:
    share = facet.flag_share
    low, high = share.interval if facet.answered else (None, None)
    counts = (facet.images, facet.answered, facet.flagged)
    return [*facet.values, *counts, share.value, low, high, facet.review, facet.failed]
