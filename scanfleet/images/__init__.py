"""Bytes to pixels, with every limit checked before memory is spent. Untrusted input ends here.

`decode` is loaded when it is first used: the command line needs neither its plugins nor numpy.
"""

from typing import TYPE_CHECKING, Any

from scanfleet.images.formats import FORMATS, SUFFIXES
from scanfleet.images.types import Decoded, Enough, Fitted, Frame

if TYPE_CHECKING:
    from scanfleet.images.decoding import decode

__all__ = ["FORMATS", "SUFFIXES", "Decoded", "Enough", "Fitted", "Frame", "decode"]


def __getattr__(name: str) -> Any:
    if name != "decode":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scanfleet.images.decoding import decode

    return decode
