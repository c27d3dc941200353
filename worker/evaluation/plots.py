"""A training's report for people: report.png with four plots, report.html with every figure and the picture inside.

Made from the JSON report alone, so that a stored report can be drawn at any time.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from scanfleet.models.promotion import GateReport

PNG, HTML = "report.png", "report.html"
CHAMPION, CHALLENGER, POSITIVE, NEGATIVE = "#8a8f98", "#1f6feb", "#d1495b", "#4f7cac"
MAX_FLIPS = 200  # in the page; the JSON report has all


def write_report(folder: Path, report: Mapping[str, Any], *, title: str) -> None:
    """Write both files. report: `gate` is the record of a GateReport; `fit` may hold the `history` of the training."""
    gate = GateReport.from_record(report["gate"])
    picture = draw(gate, report.get("fit", {}).get("history", []))
    (folder / PNG).write_bytes(picture)
    (folder / HTML).write_text(_page(gate, picture, title), encoding="utf-8")


def draw(gate: GateReport, history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss by epoch, reliability, and the margins of both models: PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a canvas of its own: no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    loss, reliability, before, after = figure.subplots(2, 2).flat
    curves = gate.figures.get("curves", {})
    _loss(loss, history)
    _reliability(reliability, gate, curves)
    _margins(before, f"margins of {gate.champion}", curves.get("champion"))
    _margins(after, f"margins of {gate.challenger}", curves.get("challenger"))
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _loss(axes: Any, history: Sequence[Mapping[str, Any]]) -> None:
    axes.set(title="loss", xlabel="epoch", ylabel="nats per answer")
    for name, colour in (("loss", CHAMPION), ("validation", CHALLENGER)):
        points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=name.replace("loss", "training"))
    _end(axes, empty="no training history")


def _reliability(axes: Any, gate: GateReport, curves: Mapping[str, Any]) -> None:
    axes.set(title="reliability on the golden set", xlabel="calibrated probability", ylabel="frequency")
    for side, name, colour in (("champion", gate.champion, CHAMPION), ("challenger", gate.challenger, CHALLENGER)):
        bins = curves.get(side, {}).get("reliability")
        if bins:
            points = [(one["probability"], one["frequency"]) for one in bins]
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=name)
    if axes.lines:
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    _end(axes, empty="no calibrator")


def _margins(axes: Any, title: str, curve: Mapping[str, Any] | None) -> None:
    axes.set(title=title, xlabel="margin (logits)", ylabel="golden images")
    if curve is not None:
        found = curve["margins"]
        for kind, colour in (("negative", NEGATIVE), ("positive", POSITIVE)):
            axes.stairs(found[kind], found["edges"], fill=True, alpha=0.55, color=colour, label=kind)
        axes.axvline(found["even"], color="black", linewidth=0.8, label="even odds")
    _end(axes, empty="no golden images")


def _end(axes: Any, *, empty: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
    else:
        axes.text(0.5, 0.5, empty, ha="center", va="center", transform=axes.transAxes)


def _page(gate: GateReport, picture: bytes, title: str) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scanfleet.worker"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    flips: list[Mapping[str, Any]] = next(
        (result.figures["flips"] for result in gate.results if "flips" in result.figures), []
    )
    return environment.get_template("refresh.html.j2").render(
        title=title,
        gate=gate,
        picture=base64.b64encode(picture).decode("ascii"),
        sides=_side_by_side(gate),
        details=[(result, list(flat(result.figures))) for result in gate.results],
        flips=flips[:MAX_FLIPS],
        n_flips=len(flips),
    )


def _side_by_side(gate: GateReport) -> list[tuple[str, str, str]]:
    champion, challenger = (dict(flat(gate.figures.get(side, {}))) for side in ("champion", "challenger"))
    return [(name, champion.get(name, "-"), challenger.get(name, "-")) for name in {**challenger, **champion}]


def flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of every figure, for people. Lists of images are skipped: they have tables of their own."""
    out: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            out += flat(value, prefix=f"{prefix}{name}: ")
        elif not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
            out.append((prefix + name.replace("_", " "), shown(value)))
    return out


def shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(shown(one) for one in value) if isinstance(value, list) else str(value)
