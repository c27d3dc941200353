"""A table whose rows arrive one after the other: printed as they come, in memory that does not grow."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from producer.cli.common import columns
from producer.cli.tables import Cell, aligned, cell_text, fit, floor

SAMPLE_ROWS = 16  # that decide how wide the columns are; a longer cell later moves its own line only


class StreamedTable:
    """`add` rows, then `end`. numbers: names of the columns that stand to the right."""

    def __init__(self, header: Sequence[str], *, numbers: Sequence[str] = ()) -> None:
        self._header = list(header)
        self._right = [name in numbers for name in header]
        self._widths: list[int] | None = None
        self._held: list[list[str]] = []

    def add(self, row: Sequence[Cell]) -> None:
        cells = [cell_text(cell) for cell in row]
        if self._widths is not None:
            self._echo(cells, self._widths)
            return
        self._held.append(cells)
        if len(self._held) == SAMPLE_ROWS:
            self._begin()

    def end(self) -> None:
        if self._held:
            self._begin()

    def _begin(self) -> None:
        widths = [max(map(len, column)) for column in zip(self._header, *self._held, strict=True)]
        columns_of = zip(self._header, zip(*self._held, strict=True), self._right, strict=True)
        floors = [floor(name, cells, number=right) for name, cells, right in columns_of]
        widths = fit(widths, floors, columns(sys.stdout))
        for cells in (self._header, *self._held):
            self._echo(cells, widths)
        self._widths, self._held = widths, []

    def _echo(self, cells: Sequence[str], widths: Sequence[int]) -> None:
        room = columns(sys.stdout)
        if room is None:  # complete: a longer cell moves what follows
            widths = [max(width, len(text)) for width, text in zip(widths, cells, strict=True)]
        click.echo(aligned(cells, widths, self._right))
