"""One image of a sheet, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from scanfleet.checks.frame_result import frame_in_words
from scanfleet.db.results.results import Result
from scanfleet.producer.reports.drawing import boxes_in_words, crop_in_words
from scanfleet.producer.reports.sheet.pictures import Picture
from scanfleet.producer.reports.sheet.truth import Fault, Said

META_COLUMNS = 12  # of a manifest, on the page
META_LETTERS = 120  # of a value
LINKED = ("https://", "http://")


@dataclass(frozen=True, kw_only=True)
class Card:
    """name: of the file. href: its address, if a browser can open it. truth: of the manifest.

    problem: why there is no explanation, unless the page says so. details: (name, value), for engineers. meta: columns
    of the manifest.
    """

    result: Result
    picture: Picture
    name: str
    href: str | None
    truth: str | None
    said: Said | None
    fault: Fault | None
    problem: str | None
    details: list[tuple[str, str]]
    meta: list[tuple[str, str]]


def make_card(
    result: Result,
    picture: Picture,
    *,
    truth: object,
    said: Said | None,
    fault: Fault | None,
    known: Sequence[str] = (),
) -> Card:
    """known: why boxes or explanations are missing in the scan, which the page says once."""
    problem = None if result.explanation is None else result.explanation.problem
    return Card(
        result=result,
        picture=picture,
        name=_name(result.uri),
        href=_href(result.uri),
        truth=None if truth is None else str(truth)[:META_LETTERS],
        said=said,
        fault=fault,
        problem=None if problem in known else problem,
        details=_details(result, known),
        meta=_meta(result.meta or {}),
    )


def _name(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1] or uri


def _href(uri: str) -> str | None:
    """Return an address to click on. Other schemes are left out, and members of archives, which are no files."""
    if uri.startswith(LINKED):
        return uri
    return PurePath(uri).as_uri() if uri.startswith("/") and "#" not in uri else None


def _details(result: Result, known: Sequence[str]) -> list[tuple[str, str]]:
    frames = result.frames
    several = frames is not None and not frames.complete
    found = (
        ("margin", None if result.margin is None else f"{result.margin:+.2f}"),
        ("label mass", None if result.mass is None else f"{result.mass:.3f}"),
        ("picture", None if frames is None else frame_in_words(frames)),
        ("pictures scored", f"{frames.n_scored} of {frames.n_frames}" if frames is not None and several else None),
        ("looks", crop_in_words(result.crop)),
        ("boxes", boxes_in_words(result.boxes)),
        *(("boxes", str(problem)) for problem in result.box_problems or () if str(problem) not in known),
        ("unlike", None if result.unlike is None else f"{result.unlike:.0%} of the calibration images are less so"),
        ("by margin", result.doubted),
        ("size", f"{result.width} x {result.height}" if result.width else None),
        ("SHA-256", result.content_sha256),
    )
    return [(name, value) for name, value in found if value is not None]


def _meta(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    shown = [(name[:META_LETTERS], _value(value)) for name, value in list(meta.items())[:META_COLUMNS]]
    left = len(meta) - len(shown)
    return [*shown, *([("", f"{left} more columns")] if left else [])]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= META_LETTERS else f"{text[:META_LETTERS]}…"
