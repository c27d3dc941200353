"""DICOM, and DICOS for baggage: the stored samples as greys between the window's ends."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from scanfleet.images.frames import MOST_LOOKED_AT
from scanfleet.images.optional import extras
from scanfleet.images.samples import Notes
from scanfleet.images.stills import jpeg
from scanfleet.images.stills.still import Asked, Shown, require_size
from scanfleet.images.types import failure

INVERTED = "MONOCHROME1"
GREY = ("MONOCHROME1", "MONOCHROME2")
WHITE = 255
PIXEL_DATA = (b"\xe0\x7f\x10\0", b"\x7f\xe0\0\x10")  # its tag
MILLISECONDS = 1000


class Dicom:
    """The frames of a file in memory."""

    sequential = False
    most_looked_at = MOST_LOOKED_AT

    def __init__(self, data: bytes, asked: Asked) -> None:
        extras.load("pydicom", "pydicom.pixels")
        import pydicom
        from pydicom.errors import BytesLengthException, InvalidDicomError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about what the standard forbids
                self._set = pydicom.dcmread(io.BytesIO(data))
        except (InvalidDicomError, BytesLengthException, AttributeError, RuntimeError) as error:
            raise failure("corrupt", f"{type(error).__name__}: {error}") from None
        if "PixelData" not in self._set:
            if any(tag in data for tag in PIXEL_DATA):
                raise failure("truncated", "the pixels have no end")
            raise failure("unsupported", "a DICOM file without pixels of whole numbers")
        self._require_decoder()
        size = int(self._set.get("Columns") or 0), int(self._set.get("Rows") or 0)
        require_size(size, asked.max_pixels)
        self.n_pixels = size[0] * size[1]
        self.n_frames = max(1, int(self._set.get("NumberOfFrames") or 1))
        self._require_all(size)

    def read(self, numbers: Sequence[int]) -> Iterator[Shown]:
        seconds = float(self._set.get("FrameTime") or 0) / MILLISECONDS
        for number in numbers:
            image, notes = self._picture(number)
            yield Shown(image, image.size, "DICOM", None, notes, round(number * seconds, 3) if seconds else None)

    def _require_all(self, size: tuple[int, int]) -> None:
        """Raises ImageError where uncompressed samples are missing, which pydicom pads."""
        if self._set.file_meta.TransferSyntaxUID.is_compressed:
            return
        bits = int(self._set.get("BitsAllocated") or 0) * int(self._set.get("SamplesPerPixel") or 1)
        expected = self.n_frames * ((size[0] * size[1] * bits + 7) // 8)
        if len(self._set.PixelData) < expected:
            raise failure("truncated", f"{len(self._set.PixelData)} of {expected} bytes of samples")

    def _require_decoder(self) -> None:
        """Raises ImageError for a transfer syntax that pydicom cannot decode here."""
        from pydicom.pixels import get_decoder

        syntax = self._set.file_meta.get("TransferSyntaxUID")
        if syntax is None:
            raise failure("corrupt", "no transfer syntax")
        try:
            available = get_decoder(syntax).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise failure("unsupported", f"transfer syntax {syntax.name} ({syntax})")

    def _require_jpeg(self, number: int) -> None:
        """Raises ImageError unless all of a JPEG is there: the decoder makes up what is not."""
        from pydicom.encaps import get_frame
        from pydicom.uid import JPEGBaseline8Bit

        if self._set.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
            jpeg.check(get_frame(self._set.PixelData, number, number_of_frames=self.n_frames), n_components=3)

    def _picture(self, number: int) -> tuple[Image.Image, Notes]:
        from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

        try:
            self._require_jpeg(number)
            samples = pixel_array(self._set, index=number)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            raise failure("corrupt", str(error)) from None
        kind = str(self._set.get("PhotometricInterpretation", ""))
        if kind not in GREY:
            if samples.ndim != 3 or samples.dtype.itemsize != 1:
                raise failure("unsupported", f"samples of {kind} with {samples.dtype.itemsize * 8} bits")
            return Image.fromarray(samples), ()
        values = apply_modality_lut(samples, self._set)
        lowest, highest, notes = self._window(values)
        if "VOILUTSequence" in self._set and "WindowCenter" not in self._set:
            values = apply_voi_lut(values, self._set)
            lowest, highest = float(values.min()), float(values.max())
        greys = ((values.astype("float64") - lowest) * (WHITE / max(highest - lowest, 1e-9))).clip(0, WHITE)
        if kind == INVERTED:
            greys = WHITE - greys
        return Image.fromarray((greys + 0.5).astype("uint8")), notes

    def _window(self, values: Any) -> tuple[float, float, Notes]:
        """The values that are shown as black and as white, by the first window of the file, else of the stored bits."""
        center, width = _first(self._set.get("WindowCenter")), _first(self._set.get("WindowWidth"))
        if center is not None and width is not None and width >= 1:
            low = center - 0.5 - (width - 1) / 2
            note = f"the window {center:g} wide {width:g} is shown: values outside it are black or white"
            outside = float(values.min()) < low or float(values.max()) > low + width - 1
            return low, low + max(width - 1, 1e-6), (note,) if outside else ()
        stored = int(self._set.get("BitsStored") or 8)
        signed = int(self._set.get("PixelRepresentation") or 0) == 1
        least, most = (-(1 << stored - 1), (1 << stored - 1) - 1) if signed else (0, (1 << stored) - 1)
        slope = _first(self._set.get("RescaleSlope"), 1.0) or 1.0
        intercept = _first(self._set.get("RescaleIntercept"), 0.0) or 0.0
        ends = sorted((least * slope + intercept, most * slope + intercept))
        return ends[0], ends[1], ()


def open_file(data: bytes, asked: Asked) -> Dicom:
    """Raises ImageError."""
    return Dicom(data, asked)


def _first(value: Any, default: float | None = None) -> float | None:
    """A number, or the first of several."""
    if value is None or value == "":
        return default
    if not isinstance(value, str | int | float) and hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    number = default if value is None else float(value)
    return number if number is not None and math.isfinite(number) else default
