"""The report folder of an experiment: report.json, and report.html with its plots as inline SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from scanfleet.errors import RequestError
from scanfleet.worker.tuning.report import write_atomically

WIDTH, HEIGHT, EDGE = 640, 320, 40  # pixels
COLOURS = ("#2563a8", "#b3541e", "#2e6b3a", "#7a3b8f", "#8a6d00", "#a02c4a", "#1f7a7a", "#555b66")
Row = Mapping[str, Any]


def write_report(folder: Path, record: Row) -> None:
    """Raises RequestError if the folder cannot be written, or holds files."""
    files = {
        "report.json": json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False).encode(),
        "report.html": page(record).encode(),
    }
    try:
        write_atomically(folder.absolute(), files)
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror}") from None


def page(record: Row) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scanfleet.worker"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    curves, calibration = curve_lines(record["rows"]), reliability_lines(record["rows"])
    return environment.get_template("experiment.html.j2").render(
        record=record, curves=curves, calibration=calibration, width=WIDTH, height=HEIGHT, edge=EDGE
    )


def curve_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each arm: points of labels and accuracy with their intervals. No labels: a level line."""
    sizes = sorted({row["labels"] for row in rows if row["labels"]})
    across = {size: EDGE + (at + 0.5) * (WIDTH - 2 * EDGE) / len(sizes) for at, size in enumerate(sizes)}
    lines = []
    for at, arm in enumerate(dict.fromkeys(row["arm"] for row in rows)):
        points = []
        for row in sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["labels"]):
            found = row["figures"]["accuracy"]
            if found["value"] is not None:
                heights = {name: round(_up(found[name]), 1) for name in ("value", "low", "high")}
                places = [across[row["labels"]]] if row["labels"] else [EDGE, WIDTH - EDGE]
                points += [{"x": round(x, 1), "labels": row["labels"], **heights} for x in places]
        lines.append({"name": arm, "colour": COLOURS[at % len(COLOURS)], "points": points})
    return lines


def reliability_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a line for each arm at its largest number of labels: mean probability and share of flags of each bin."""
    largest = {row["arm"]: row for row in sorted(rows, key=lambda row: row["labels"])}
    return [
        {
            "name": arm,
            "colour": COLOURS[at % len(COLOURS)],
            "points": [
                {"x": round(EDGE + p * (WIDTH - 2 * EDGE), 1), "value": round(_up(share), 1)}
                for p, share, _ in row["reliability"]
            ],
        }
        for at, (arm, row) in enumerate(largest.items())
    ]


def _up(share: float) -> float:
    return HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE)
