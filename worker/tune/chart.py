"""The picture of a report: cost against objective on held-out images, with intervals. From the JSON record alone."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

STANDING, LARGER, FRONT, TRIED, CHOSEN = "#8a8f98", "#b26a00", "#1f6feb", "#c9ccd1", "#2e6b3a"


def draw(record: Mapping[str, Any]) -> bytes:
    """PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its own canvas: no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(
        title=f"{record['check']}: held-out images, with intervals",
        xlabel="visual tokens of an image, as a ratio to the check as it stands",
        ylabel=record["objective"]["name"],
    )
    tried = [one for one in record["tried"] if one["value"] is not None]
    axes.plot(
        [one["cost"] for one in tried],
        [one["value"] for one in tried],
        ".",
        color=TRIED,
        label="tried, on the search part",
        zorder=1,
    )
    front = sorted(record["front"], key=lambda row: row["cost"])
    _bars(axes, front, FRONT, "o", "candidates: the best of the search part")
    _bars(axes, [record["standing"]], STANDING, "s", "as it stands")
    _bars(axes, [record["larger"]], LARGER, "^", "larger budget at equal cost")
    if record["chosen"] is not None:
        _bars(axes, [record["front"][record["chosen"]]], CHOSEN, "*", "chosen", size=16)
    axes.axvline(record["max_cost"], color="black", linewidth=0.8, linestyle=":", label="cost limit")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _points(rows: list[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    known = [row for row in rows if row["value"]["value"] is not None]
    return [row["cost"] for row in known], [row["value"]["value"] for row in known]


def _bars(axes: Any, rows: list[Mapping[str, Any]], colour: str, marker: str, label: str, *, size: int = 7) -> None:
    known = [row for row in rows if row["value"]["low"] is not None]
    x, y = _points(known)
    # An interval of draws may lie beside the figure itself; a bar has no negative length.
    below = [max(0.0, row["value"]["value"] - row["value"]["low"]) for row in known]
    above = [max(0.0, row["value"]["high"] - row["value"]["value"]) for row in known]
    axes.errorbar(
        x, y, yerr=[below, above], fmt=marker, color=colour, markersize=size, capsize=3, label=label, zorder=3
    )
