"""Prints the times of a scan by stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import echo_line

if TYPE_CHECKING:
    from scanfleet.stats.stage_times import StageTimes


def echo_times(times: StageTimes) -> None:
    """Print the times, or nothing if none were measured."""
    from scanfleet.producer.reports.times import times_in_words

    for place, line in enumerate(times_in_words(times)):
        if place == 0:
            click.echo()
        echo_line(f"  {line}" if place else line, hang=4 if place else 2)
