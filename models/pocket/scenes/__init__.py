"""Seeded scene generators: every image that the pocket model is trained or measured on.

They use numpy and Pillow, not torch. One image is a pure function of (seed, family, index, size).
"""

from __future__ import annotations

from scanfleet.models.pocket.scenes import baggage, overlay, razor

CHECKS = {"overlay": overlay, "baggage": baggage, "razor": razor}
