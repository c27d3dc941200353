"""Formats that need an extra: which file is one, and the libraries that are only loaded for such a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from scanfleet.config.extras import install_hint
from scanfleet.images.optional.containers import MATROSKA
from scanfleet.images.types import failure

EXTRAS = {"cv2": "video", "pypdfium2": "pdf", "pydicom": "dicom"}  # by module
LIBRARY_BYTES = 1 << 30  # of address space, that a child keeps for them beside the memory of an image
PDF = b"%PDF-"
DICOM = b"DICM"
DICOM_AT = 128
VIDEO_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip")  # a MOV may begin with them
# A file of these may carry anything at the place of DICOM's mark; viewers go by the start.
OTHERS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"%PDF-")
STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"crx ")


def kind_of(data: bytes) -> str | None:
    """Return the extra that the file needs."""
    start = data[:12]
    if (start[4:8] == b"ftyp" and start[8:12] not in STILL_BRANDS) or start[4:8] in VIDEO_BOXES:
        return "video"
    if start.startswith(MATROSKA):
        return "video"
    if data[DICOM_AT : DICOM_AT + 4] == DICOM and not start.startswith(OTHERS):
        return "dicom"
    return "pdf" if start.startswith(PDF) else None


def load(module: str, *submodules: str) -> Any:
    """Import a library of an extra. Its own size does not count as memory of the image. Raises ImageError."""
    if sys.modules.get(module) is not None:
        return sys.modules[module]
    before = _address_space()
    room = 0 if before is None else _raise_limit(LIBRARY_BYTES)
    try:
        for name in (module, *submodules):
            importlib.import_module(name)
    except ImportError as error:
        extra = EXTRAS[module]
        raise failure("unsupported", f"the extra {extra} is needed ({error}): {install_hint(extra)}") from None
    finally:
        if before is not None and room:
            _raise_limit((_address_space() or before) - before - room)
    return sys.modules[module]


def _address_space() -> int | None:
    if sys.platform != "linux":
        return None
    import resource

    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _raise_limit(n_bytes: int) -> int:
    """Move the soft limit of address space as far as the hard one allows; return by how many bytes."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return 0
    moved = soft + n_bytes if hard == resource.RLIM_INFINITY else min(soft + n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (moved, hard))
    return moved - soft
