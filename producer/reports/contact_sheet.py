"""The contact sheet: flagged images with their scores as one HTML file that needs nothing else.

Whatever comes from outside (names, labels, reasons) is escaped. Images are decoded in child processes and drawn anew,
never copied, and only while their bytes are those that were judged.
"""

from __future__ import annotations

import base64
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import jinja2
import sqlalchemy as sa
from PIL import Image

from scanfleet.checks.frame_result import frame_in_words
from scanfleet.config.settings import Settings
from scanfleet.db.engine import reading
from scanfleet.db.results.results import Result, ResultFilter, top_results
from scanfleet.db.scans.checks import get_check
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import DecodersUnavailable, ImageError, StoreUnavailable
from scanfleet.producer.reports.drawing import boxes_in_words, crop_in_words, draw_boxes, draw_crop
from scanfleet.producer.reports.output import require_place, target
from scanfleet.producer.reports.summary import summarise
from scanfleet.storage.open import OpenStores

MAX_IMAGES = 200
THUMBNAIL_PIXELS = 256  # the longer edge
JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Card:
    """One image on the sheet. thumbnail: a data URI; None with the reason in `missing`."""

    result: Result
    truth: str | None
    wrong: bool  # the truth is known and the label is another
    thumbnail: str | None
    missing: str | None
    found: str | None  # boxes in words
    looks: str | None  # both looks in words; None: it was not to be looked at again
    frame: str | None  # the picture that was judged, of a file with several


def write_report(
    engine: sa.Engine,
    settings: Settings,
    scan_id: str,
    path: Path,
    *,
    truth_column: str | None = None,
    max_images: int = MAX_IMAGES,
) -> int:
    """Write the sheet: flagged images first, then those to review, each by falling score. Returns how many are shown.

    A check without flags shows the images with the highest margin. Raises UnknownName, RequestError.
    """
    require_place(path)
    summary = summarise(engine, scan_id)
    with reading(engine, long=True) as connection:
        check = get_check(connection, summary.scan.check_id)
        results = _choose(connection, summary.scan.id, check.flags, max_images)
    with Decoders(settings) as decoders, ThreadPoolExecutor(settings.fetch_threads) as pool:
        images = _Images(settings, decoders)
        cards = list(pool.map(partial(_card, images=images, truth_column=truth_column), results))
    n_matching = sum(n for (decision, _), n in summary.answers.items() if not check.flags or decision != "clear")
    page = _template().render(
        summary=summary,
        check=check,
        cards=cards,
        n_matching=n_matching,
        made_at=datetime.now(UTC),
    )
    with target(path, form="html") as file:
        file.write(page.encode())
    return len(cards)


def _choose(connection: sa.Connection, scan_id: str, flags: tuple[str, ...], max_images: int) -> list[Result]:
    if not flags:
        return top_results(connection, ResultFilter(scan=scan_id, state="verdict"), limit=max_images)
    chosen: list[Result] = []
    for decision in ("flag", "review"):
        wanted = ResultFilter(scan=scan_id, decision=decision)
        chosen += top_results(connection, wanted, limit=max_images - len(chosen))
    return chosen


class _Images:
    """The pictures that were judged."""

    def __init__(self, settings: Settings, decoders: Decoders) -> None:
        self._settings = settings
        self._decoders = decoders
        self._stores = OpenStores(settings)

    def picture(self, result: Result) -> Image.Image:
        """Raises ImageError (also fetch: changed), StoreUnavailable, DecodersUnavailable."""
        most = self._settings.max_image_bytes
        data = self._stores(result.uri, result.root).fetch(result.uri, etag=result.etag, max_bytes=most).data
        if hashlib.sha256(data).hexdigest() != result.content_sha256:
            raise ImageError(stage="fetch", reason="changed", detail="the file is not the one that was judged")
        frame = 0 if result.frames is None else result.frames.frame
        return self._decoders.decode(data, frame=frame).image


def _card(result: Result, *, images: _Images, truth_column: str | None) -> Card:
    truth = (result.meta or {}).get(truth_column) if truth_column is not None else None
    thumbnail, missing = None, None
    try:
        thumbnail = _thumbnail(images.picture(result), result)
    except ImageError as error:
        missing = f"changed since: {error.detail}" if error.reason == "changed" else f"{error.reason}: {error.detail}"
    except (StoreUnavailable, DecodersUnavailable) as error:
        missing = str(error)
    return Card(
        result=result,
        truth=None if truth is None else str(truth),
        wrong=truth is not None and truth != result.label,
        thumbnail=thumbnail,
        missing=missing,
        found=boxes_in_words(result.boxes),
        looks=crop_in_words(result.crop),
        frame=None if result.frames is None else frame_in_words(result.frames),
    )


def _thumbnail(image: Image.Image, result: Result) -> str:
    size = image.size
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    draw_crop(image, result.crop, size=size)
    draw_boxes(image, result.boxes or (), size=size)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scanfleet.producer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2")
