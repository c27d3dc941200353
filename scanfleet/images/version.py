"""The version of decoding: which pixels the same bytes give."""

from __future__ import annotations

# 1: the first picture of a file; some decoders filled in what was missing. 2: what is missing is an error, and a check
# chooses among several pictures. A scorer's key holds it, so that answers for other pixels are never reused.
DECODING_VERSION = 2
