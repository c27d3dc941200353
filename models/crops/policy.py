"""The settings of a crop pass: where it reads, how, and how both passes become one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scanfleet.models.relevance.regions import Method, Reference

Look = Literal["pair", "crop", "larger", "tiles", "adapted", "reweight"]
Fuse = Literal["mean", "max", "second"]

POINTED: tuple[Look, ...] = ("pair", "crop", "reweight")  # these need a region


@dataclass(frozen=True, kw_only=True)
class CropPolicy:
    """How the crop pass reads an image. The caller decides when.

    Attributes:
        look: "pair" reads the original and a crop in one turn (ViCrop, arXiv 2502.17422), "crop" the crop alone,
            "larger" the whole image under another pixel budget, "tiles" each of its tiles, "adapted" the whole image
            under a budget of its own, "reweight" the whole image with the attention to the region multiplied by
            `emphasis`.
        method: of the relevance map that finds the region.
        reference: the divisor of rel-att and pure-grad. "generic" is the map of a generic instruction on the same
            image, "blank" the map of a blank image with the same grid, which is computed once.
        tiled: compute a map for each tile of about 1024 pixels and join them; for images that were shrunk a lot.
        crop_pixels: pixel budget of the crop, of each tile, or of the larger reading; the maximum of an adapted one.
        context_pixels: pixel budget of the original in a pair.
        layers: of the language model, 0-based, whose attention is averaged; empty: the middle third.
        emphasis: factor for "reweight", 1 or more.
        fuse: "mean" of both passes' label logits, the reading with the "max" margin, or the "second" pass alone.
    """

    look: Look = "pair"
    method: Method = "rel-att"
    reference: Reference = "blank"
    tiled: bool = False
    crop_pixels: int = 448 * 448
    context_pixels: int = 448 * 448
    layers: tuple[int, ...] = ()
    emphasis: float = 1.5
    fuse: Fuse = "mean"

    @property
    def pointed(self) -> bool:
        """Whether the pass needs a region."""
        return self.look in POINTED

    @property
    def recorded(self) -> tuple[int, ...] | None:
        """The layers whose attention the first pass records for the map; None: it records nothing."""
        return self.layers if self.pointed and self.method == "rel-att" else None
