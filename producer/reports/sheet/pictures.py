"""The pictures that were judged, small enough that a page with thousands of them stays one file to send around.

Images are decoded in child processes and drawn anew, never copied, and only while their bytes are those that were
judged.
"""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass

from PIL import Image

from scanfleet.config.settings import Settings
from scanfleet.db.results.results import Result
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import DecodersUnavailable, ImageError, StoreUnavailable
from scanfleet.producer.reports.drawing import draw_boxes, draw_crop
from scanfleet.storage.open import OpenStores

PAGE_BYTES = 29_000_000  # of a page with up to 2,000 images
MARKUP_BYTES = 3_000  # of these for the words of an image
MOST_BYTES = 32_000  # of a picture, however few there are
# Longer edge in pixels and quality: the first that fits is taken, and the last whether it fits or not. Edges that only
# an almost empty picture fits at are not tried.
RUNGS = ((768, 80), (640, 78), (512, 75), (448, 73), (384, 72), (320, 70), (256, 65), (192, 60), (128, 50), (96, 30))
PIXELS_A_BYTE = 20  # of the emptiest pictures


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn picture as a data URI, with its size in pixels; without one, `missing` says why."""

    uri: str | None = None
    width: int = 0
    height: int = 0
    missing: str | None = None


class Pictures:
    """Fetches, decodes and draws. n: pictures on the page, which share its bytes."""

    def __init__(self, settings: Settings, decoders: Decoders, *, n: int) -> None:
        self._settings = settings
        self._decoders = decoders
        self._stores = OpenStores(settings)
        self._max_bytes = bytes_each(n)

    def drawn(self, result: Result) -> Picture:
        if result.failure is not None:
            return Picture(missing=f"{result.failure.stage}: {result.failure.reason}: {result.failure.detail}")
        if result.content_sha256 is None:
            return Picture(missing=f"no answer: {result.state}")
        try:
            return draw(self.judged(result), result, max_bytes=self._max_bytes)
        except ImageError as error:
            changed = error.reason == "changed"
            return Picture(missing=f"{'changed since' if changed else error.reason}: {error.detail}")
        except (StoreUnavailable, DecodersUnavailable) as error:
            return Picture(missing=str(error))

    def judged(self, result: Result) -> Image.Image:
        """Raises ImageError (also fetch: changed), StoreUnavailable, DecodersUnavailable."""
        most = self._settings.max_image_bytes
        data = self._stores(result.uri, result.root).fetch(result.uri, etag=result.etag, max_bytes=most).data
        if hashlib.sha256(data).hexdigest() != result.content_sha256:
            raise ImageError(stage="fetch", reason="changed", detail="the file is not the one that was judged")
        frame = 0 if result.frames is None else result.frames.frame
        return self._decoders.decode(data, frame=frame).image


def bytes_each(n: int) -> int:
    """Return the bytes of a picture, before base64 makes four of three, if n share a page."""
    return min(MOST_BYTES, max((PAGE_BYTES // max(n, 1) - MARKUP_BYTES) * 3 // 4, 0))


def draw(image: Image.Image, result: Result, *, max_bytes: int) -> Picture:
    """Return the largest picture that fits, never larger than the image, with crop and boxes drawn on it."""
    size = image.size
    data = b""
    for edge, quality in RUNGS:
        if edge * edge > PIXELS_A_BYTE * max_bytes and (edge, quality) != RUNGS[-1]:
            continue
        image.thumbnail((edge, edge))
        drawn = image.convert("RGB")
        draw_crop(drawn, result.crop, size=size)
        draw_boxes(drawn, result.boxes or (), size=size)
        out = io.BytesIO()
        drawn.save(out, "WEBP", quality=quality, method=2)
        data = out.getvalue()
        if len(data) <= max_bytes:
            break
    uri = "data:image/webp;base64," + base64.b64encode(data).decode()
    return Picture(uri=uri, width=drawn.width, height=drawn.height)
