"""The report of a tuning: its JSON record, and the folder that is written from the record alone.

The folder holds report.json, report.html with the picture inside, front.png, and check.toml if a setting was chosen. It
is written atomically. The picture shows cost against objective on held-out images, with intervals.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import tomlkit

from scanfleet.errors import RequestError
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.tuning.objective import Objective
from scanfleet.worker.tuning.search import ScoredSetting, SearchResult
from scanfleet.worker.tuning.select import Row, Selection
from scanfleet.worker.tuning.splits import Splits, counts

CURRENT, LARGER, FRONT, TRIED, CHOSEN = "#8a8f98", "#b26a00", "#1f6feb", "#c9ccd1", "#2e6b3a"


def draw(record: Mapping[str, Any]) -> bytes:
    """PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # its own canvas: no display, no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set(
        title=f"{record['check']}: held-out images, with intervals",
        xlabel="visual tokens of an image, as a ratio to the current check",
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
    _bars(axes, [record["standing"]], CURRENT, "s", "current check")
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
    rows = [row for row in rows if row["value"]["value"] is not None]
    return [row["cost"] for row in rows], [row["value"]["value"] for row in rows]


def _bars(axes: Any, rows: list[Mapping[str, Any]], colour: str, marker: str, label: str, *, size: int = 7) -> None:
    rows = [row for row in rows if row["value"]["low"] is not None]
    x, y = _points(rows)
    # A bootstrap interval may exclude the figure itself; a bar has no negative length.
    below = [max(0.0, row["value"]["value"] - row["value"]["low"]) for row in rows]
    above = [max(0.0, row["value"]["high"] - row["value"]["value"]) for row in rows]
    axes.errorbar(
        x, y, yerr=[below, above], fmt=marker, color=colour, markersize=size, capsize=3, label=label, zorder=3
    )


def record_of(
    *,
    objective: Objective,
    limit: float,
    seed: int,
    searched: SearchResult,
    selection: Selection,
    current: ScoredSetting,
) -> dict[str, Any]:
    """current: the current check on the search part."""
    return {
        "objective": {"name": objective.name, "at_fpr": objective.at_fpr},
        "max_cost": limit,
        "seed": seed,
        "trials": len(searched.tried),
        "turned_down": searched.rejected,
        "stopped": searched.stopped,
        "standing": _row(selection.current) | {"searched": {"value": current.value, "cost": current.cost}},
        "larger": _row(selection.larger),
        "front": [_row(row) for row in selection.front],
        "chosen": selection.chosen,
        "reason": selection.reason,
        "tried": [
            {"setting": one.setting.record(), "words": one.setting.in_words(), "value": one.value, "cost": one.cost}
            for one in searched.tried
        ],
    }


def images_record(
    parts: Splits, examples: Sequence[Example], question: Question, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """The number of images, groups and labels in each part. left_out: uri -> reason."""
    named = {"search": parts.search, "held_out": parts.held_out}
    return {
        name: {
            "n": len(images),
            "groups": len({examples[at].cluster for at in images}),
            "labels": counts(examples, images, question),
        }
        for name, images in named.items()
    } | {"left_out": dict(left_out)}


def _row(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting.record(),
        "words": row.setting.in_words(),
        "cost": row.cost,
        "again": row.crop_share,
        "value": row.value.record(),
        "change": row.change.record(),
        "searched": None if row.searched is None else {"value": row.searched.value, "cost": row.searched.cost},
    }


JSON, HTML, PNG, TOML = "report.json", "report.html", "front.png", "check.toml"


def write_report(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises RequestError if the folder cannot be written."""
    picture = draw(record)
    files = {
        JSON: json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n",
        HTML: _page(record, picture).encode(),
        PNG: picture,
    }
    if record["tuned"] is not None:
        files[TOML] = tomlkit.dumps(record["tuned"]["check"]).encode()
    try:
        write_atomically(folder.absolute(), files)
    except OSError as error:
        raise RequestError(f"cannot write {folder}: {error.strerror}") from None


def write_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write to a temporary folder, then rename it: this replaces an empty folder and refuses a filled one."""
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        for name, body in files.items():
            (part / name).write_bytes(body)
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o777 & ~umask)  # mkdtemp makes it private
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part)
        raise


def _page(record: Mapping[str, Any], picture: bytes) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scanfleet.worker"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    rows = [("current check", record["standing"]), ("larger budget at equal cost", record["larger"])]
    rows += [("chosen" if at == record["chosen"] else "candidate", row) for at, row in enumerate(record["front"])]
    toml = None if record["tuned"] is None else tomlkit.dumps(record["tuned"]["check"])
    return environment.get_template("tune.html.j2").render(
        record=record, rows=rows, picture=base64.b64encode(picture).decode("ascii"), toml=toml
    )
