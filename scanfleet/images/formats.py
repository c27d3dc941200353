"""Which files are pictures, by name and by their first bytes."""

from __future__ import annotations

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
# Files of the last two rows are listed whether they can be read or not, so that each that cannot is named as a failure:
# the first of them needs extras (scanfleet.images.optional.extras), the second is never read.
_OF_EXTRAS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".pdf", ".dcm", ".dcs")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
    *_OF_EXTRAS,
    *(".heic", ".heif", ".jxl", ".jp2", ".avi"),
)
SEVERAL_SUFFIXES = (".apng", ".gif", ".webp", ".tif", ".tiff", *_OF_EXTRAS)  # of files that often hold several pictures
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of ISO/IEC 23008-12
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
AVIF = (b"avif", b"avis")
SIGNATURES = {
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop document",
}


def unsupported(data: bytes) -> str | None:
    """Return the name of a picture format that is not read; None if the file is no such picture."""
    if data.startswith(b"RIFF") and data[8:12] == b"AVI ":
        return "AVI"
    if data[4:8] == b"ftyp":
        return "HEIC" if data[8:12] in HEIC else None
    return next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)
