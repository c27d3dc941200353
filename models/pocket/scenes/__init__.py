"""Seeded scene generators: every image the pocket model was trained or measured on comes from here.

Knows numpy and Pillow, no torch. One image is a pure function of (seed, family, index, size).
"""

from __future__ import annotations

from models.pocket.scenes import baggage, overlay, razor

CHECKS = {"overlay": overlay, "baggage": baggage, "razor": razor}
