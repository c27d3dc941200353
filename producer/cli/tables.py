"""Tables of aligned columns: complete in a log or pipe, fitted to the window on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click

from scanfleet.producer.cli.options import columns, folded, printable

Cell = str | int | float | None

INDENT = 4  # of columns that are printed below their row
LEAST = 8  # characters that a shortened text keeps


def echo_table(header: Sequence[str], rows: Iterable[Sequence[Cell]], *, below: Sequence[str] = ()) -> None:
    """Print a table, numbers to the right and text to the left. Holds the rows in memory, so for short lists only.

    On a terminal that is too narrow, the columns `below` are printed under their row, and text that is still too long
    is shortened.
    """
    body = [[cell_text(cell) for cell in row] for row in rows]
    right = [_is_number(cell) for cell in body[0]] if body else [False] * len(header)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    space = columns(sys.stdout)
    narrow = space is not None and _total(widths) > space
    kept = [at for at, name in enumerate(header) if not (narrow and name in below)]
    floors = [floor(header[at], [line[at] for line in body], number=right[at]) for at in kept]
    taken = fit([widths[at] for at in kept], floors, space)
    for n, line in enumerate((list(header), *body)):
        click.echo(aligned([line[at] for at in kept], taken, [right[at] for at in kept]))
        if n and narrow:
            _echo_below([(name, line[at]) for at, name in enumerate(header) if at not in kept], space or 0)


def aligned(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """Return one line, with cells shortened to their columns."""
    placed = zip(map(shortened, cells, widths), widths, right, strict=True)
    return "  ".join(text.rjust(width) if number else text.ljust(width) for text, width, number in placed).rstrip()


def fit(widths: Sequence[int], floors: Sequence[int], space: int | None) -> list[int]:
    """Narrow the widest columns until all fit, none below its floor. space: None for no limit.

    >>> fit([8, 30, 12], [8, 8, 12], 40)
    [8, 16, 12]
    """
    taken = list(widths)
    while space is not None and _total(taken) > space:
        able = [at for at, floor in enumerate(floors) if taken[at] > floor]
        if not able:
            break
        taken[max(able, key=taken.__getitem__)] -= 1
    return taken


def shortened(text: str, width: int) -> str:
    """Shorten prose at its end, a name or address in its middle.

    >>> shortened("s3://ads/2026/banner.png", 16), shortened("asked for by ann", 10)
    ('s3://…banner.png', 'asked for…')
    """
    if len(text) <= width:
        return text
    if " " in text:
        return f"{text[: width - 1].rstrip()}…"
    head = (width - 1) // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def floor(name: str, cells: Iterable[str], *, number: bool) -> int:
    """Return the least width of a column. Numbers are never shortened."""
    return max(min(len(name), LEAST), *(map(len, cells) if number else ()), 0)


def _echo_below(cells: Iterable[tuple[str, str]], space: int) -> None:
    """Print the cells in one line if they fit, else each in its own line."""
    lines = []
    for name, text in cells:
        if text != "-":
            longest = space - INDENT - len(f"{name}: ")
            lines.append(f"{name}: {' '.join(shortened(word, longest) for word in text.split())}")
    joined = "  ".join(lines)
    for words in [joined] if INDENT + len(joined) <= space else lines:
        click.echo(folded(" " * INDENT + words, hang=2 * INDENT))


def cell_text(cell: Cell) -> str:
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return printable(str(cell))
    return f"{cell:.4f}" if cell == 0 or 0.001 <= abs(cell) < 1e9 else f"{cell:.4g}"  # four decimals hide small ones


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit()


def count(n: int, word: str, plural: str | None = None) -> str:
    """
    >>> count(1, "image"), count(2, "image"), count(2, "batch", "batches")
    ('1 image', '2 images', '2 batches')
    """
    return f"{n} {word}" if n == 1 else f"{n} {plural or f'{word}s'}"


def size_text(n_bytes: int) -> str:
    """
    >>> size_text(1_500_000)
    '1.5 MB'
    """
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


SAMPLE_ROWS = 16  # rows that decide the column widths; a longer cell later shifts only its own line


class StreamedTable:
    """A table that prints rows as they arrive, in constant memory. numbers: names of the right-aligned columns."""

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
        space = columns(sys.stdout)
        if space is None:  # print whole cells: a longer one shifts the rest of its line
            widths = [max(width, len(text)) for width, text in zip(widths, cells, strict=True)]
        click.echo(aligned(cells, widths, self._right))
