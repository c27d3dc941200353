"""Progress on stderr: live bars on a terminal, otherwise a plain line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from scanfleet.producer.cli.tables import count

if TYPE_CHECKING:
    from scanfleet.producer.scans.enqueue import Enqueued
    from scanfleet.producer.scans.wait import ScanSnapshot

LINE_SECONDS = 5.0
AGAIN_SECONDS = 60.0  # repeat an unchanged line after this, to show that the program is alive


class Display(AbstractContextManager["Display"], Protocol):
    def listed(self, page: Enqueued) -> None:
        """Show how far the listing is."""
        ...

    def scored(self, now: ScanSnapshot) -> None:
        """Show how far the scan is."""
        ...


def open_display() -> Display:
    """Return the display that suits stderr."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return BarDisplay()
    return LineDisplay()


def listing_text(page: Enqueued) -> str:
    limit = page.scan.filters.get("limit")  # the listing stops there: the number listed says nothing
    if limit is not None and not page.scan.rescan_of:
        return f"{page.n_new} new (--limit {limit})"
    return f"{page.n_listed} listed, {page.n_new} new"


def scoring_text(now: ScanSnapshot) -> str:
    """Return `120 of 400 images: 118 scored (7 flagged, 3 to review), 2 failed`, and the reason for a wait."""
    done = now.progress
    ended = done.n_images - done.n_pending
    marked = f"{done.n_flagged} flagged, {done.n_review} to review"
    words = [f"{ended} of {count(done.n_images, 'image')}: {done.n_verdicts} scored ({marked})"]
    if done.n_failures:
        words.append(f"{done.n_failures} failed")
    if done.n_cancelled:
        words.append(f"{done.n_cancelled} cancelled")
    if now.scan.state == "paused":
        words.append(f"paused (`scanfleet scans resume {now.scan.id}`)")
    if done.waiting_for and not now.ended:
        words.append(f"waiting for: {done.waiting_for}")
    return ", ".join(words)


class LineDisplay:
    """A display for logs and pipes."""

    def __init__(self, *, every_seconds: float = LINE_SECONDS) -> None:
        self._every = every_seconds
        self._due_at = time.monotonic() + every_seconds
        self._again_at = self._due_at
        self._last = ""

    def listed(self, page: Enqueued) -> None:
        self._line(f"listing: {listing_text(page)}", now=page.ended)

    def scored(self, now: ScanSnapshot) -> None:
        self._line(f"scoring: {scoring_text(now)}", now=now.ended)

    def _line(self, text: str, *, now: bool) -> None:
        at = time.monotonic()
        due = self._due_at if text != self._last else self._again_at
        if at >= due or (now and text != self._last):
            click.echo(text, err=True)
            self._last, self._due_at, self._again_at = text, at + self._every, at + AGAIN_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class BarDisplay:
    """A display for terminals: one line for the listing, one bar for the scoring."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._stack = ExitStack()
        self._listing = self._bars.add_task("listing", total=None, words="", visible=False)
        self._scoring = self._bars.add_task("scoring", total=None, words="", visible=False)

    def listed(self, page: Enqueued) -> None:
        total = max(page.n_listed, 1) if page.ended else None
        self._bars.update(self._listing, total=total, completed=page.n_listed, words=listing_text(page), visible=True)

    def scored(self, now: ScanSnapshot) -> None:
        done = now.progress
        self._bars.update(
            self._scoring,
            total=max(done.n_images, 1),
            completed=done.n_images - done.n_pending,
            words=scoring_text(now),
            visible=True,
        )

    def __enter__(self) -> Self:
        self._stack.enter_context(self._bars)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
