"""What an import of labels would do, as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from scanfleet.producer.cli.options import note
from scanfleet.producer.cli.tables import echo_table

if TYPE_CHECKING:
    from scanfleet.producer.labels.importing import Summary

SHOWN_UNREAD = 5
SHOWN_LEFT_OUT = 10


def echo_summary(summary: Summary, split: str | None) -> None:
    """Print the table on stdout, and below it what to know before the import."""
    from scanfleet.db.tables.training import SPLITS

    rows: list[tuple[str | int, ...]] = [
        (label, *(splits[name] for name in SPLITS), sum(splits.values()), summary.boxes.get(label, 0))
        for label, splits in summary.table.items()
    ]
    echo_table(("label", *SPLITS, "images", "boxes"), rows)
    click.echo()
    for n, words in (
        (summary.n_labels, "labels to add"),
        (summary.n_present, "labels that the ledger already has"),
        (summary.n_repeated, "labels repeated in the file"),
        (summary.n_known, "images that were labelled before: they keep their split"),
        (summary.n_same_bytes, "names with the same bytes as another one"),
        (summary.n_near, "images that resemble another one: they share its split"),
        (summary.n_conflicts, "images in conflict, since people differ: used for nothing until settled"),
        (summary.n_refused, f"images outside split {split}: their cluster is already in another split and stays there"),
        (summary.n_unused, "images resemble images of two splits, or an unpinned golden image: used for nothing"),
        (summary.n_shut_out, "images of this check were golden by hash: used for nothing from now on"),
        (summary.n_mixed, "images with boxes of several labels: a flagging label is used for the image"),
        (summary.n_several, "files with several pictures, and no verdict that names one: left out of trainings"),
        (summary.n_blank, "rows without a label, or tasks without an answer: skipped"),
        (sum(summary.reasons.values()), "images and boxes that are not used: left out"),
        (len(summary.unread), "images that could not be read: their labels are skipped"),
    ):
        if n or words == "labels to add":
            click.echo(f"{n:>8}  {words}")
    _echo_changes(summary)
    for words in summary.left_out[:SHOWN_LEFT_OUT]:
        note(f"left out: {words}")
    for uri, error in list(summary.unread.items())[:SHOWN_UNREAD]:
        note(f"{uri}: {error}")


def _echo_changes(summary: Summary) -> None:
    """Print what is added, changed and left as it is, by label, and what is left out, by reason."""
    from scanfleet.producer.labels.importing import CHANGES

    click.echo()
    rows: list[tuple[str | int, ...]] = [
        (label, *(counts[kind] for kind in CHANGES)) for label, counts in summary.changes.items()
    ]
    echo_table(("label", *CHANGES), rows)
    unread = Counter(f"the image cannot be read: {error.reason}" for error in summary.unread.values())
    if left_out := Counter(summary.reasons) + unread:
        click.echo()
        echo_table(("left out because", "images or boxes"), left_out.most_common())
