"""Videos, PDFs and DICOM files, written here. Each function needs the library of its extra."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CODECS = {"mp4": "mp4v", "mov": "mp4v", "webm": "VP80", "mkv": "VP90"}
WIDTH, HEIGHT, FPS = 160, 96, 25


def video(suffix: str, n: int = 60) -> bytes:
    """A bar that grows: its share of the width is the share of the time."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        code = cv2.VideoWriter_fourcc(*CODECS[suffix])
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, float(FPS), (WIDTH, HEIGHT))
        grain = np.random.default_rng(3).integers(0, 40, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for number in range(n):
            frame = grain.copy()
            frame[:, : number * WIDTH // n] += np.array((0, 0, 200), np.uint8)
            writer.write(frame)
        writer.release()
        return path.read_bytes()


def bar(image: Image.Image) -> int:
    """Columns of the bar of `video`."""
    return int((np.asarray(image)[HEIGHT // 2, :, 0] > 130).sum())


def pdf(images: list[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    images[0].save(buffer, "PDF", save_all=True, append_images=images[1:], resolution=150)
    return buffer.getvalue()


def dicom(samples: "np.ndarray[Any, Any]", *, compress: str | None = None, **more: Any) -> bytes:
    """Grey samples of 16 bits, 12 of them stored, or of 8 bits with JPEG."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless, SecondaryCaptureImageStorage

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    bits = 8 if compress == "jpeg" else 12
    made.Rows, made.Columns = samples.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = (8 if bits == 8 else 16), bits, bits - 1
    if samples.ndim == 3:
        made.NumberOfFrames = len(samples)
    made.PixelData = samples.astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
    for name, value in more.items():
        setattr(made, name, value)
    if compress == "rle":
        made.compress(RLELossless)
    if compress == "jpeg":
        made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        buffer = io.BytesIO()
        Image.fromarray(samples.astype(np.uint8)).save(buffer, "JPEG", quality=95)
        made.PixelData = encapsulate([buffer.getvalue()])
        made["PixelData"].VR = "OB"
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()
