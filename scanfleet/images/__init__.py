"""Bytes to pixels, with every limit checked before memory is spent. Untrusted input ends here.

`scanfleet.images.decoding` decodes; only decoder children and workers load it.
"""

from scanfleet.images.formats import FORMATS, SUFFIXES
from scanfleet.images.types import Decoded, Enough, Frame

__all__ = ["FORMATS", "SUFFIXES", "Decoded", "Enough", "Frame"]
