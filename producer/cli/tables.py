"""Plain aligned columns: they read well on a terminal, in a log and through a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from producer.cli.common import printable

Cell = str | int | float | None


def echo_table(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Numbers to the right, words to the left, nothing cut off. Holds the rows in memory: for short lists."""
    body = [[cell_text(cell) for cell in row] for row in rows]
    right = [_is_number(cell) for cell in body[0]] if body else [False] * len(header)
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    for line in (list(header), *body):
        cells = zip(line, widths, right, strict=True)
        click.echo(
            "  ".join(text.rjust(width) if number else text.ljust(width) for text, width, number in cells).rstrip()
        )


def cell_text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.4f}" if isinstance(cell, float) else printable(str(cell))


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
