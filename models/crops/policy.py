"""What a second look is: where it is pointed, what it reads, and how both looks become one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.relevance.regions import Method, Reference

Look = Literal["pair", "crop", "larger", "tiles", "adapted", "reweight"]
Fuse = Literal["mean", "max", "second"]

POINTED: tuple[Look, ...] = ("pair", "crop", "reweight")  # those that need a region


@dataclass(frozen=True, kw_only=True)
class CropPolicy:
    """One way of looking again; when to do so is the caller's affair.

    look: "pair" reads the original and a crop in one turn (ViCrop, arXiv 2502.17422), "crop" the crop alone, "larger"
        the whole image under another pixel budget, "tiles" every tile of it by itself, "adapted" the whole image under
        a budget of its own, "reweight" the whole image once more with the attention to the region multiplied by
        `emphasis`.
    method: of the relevance map that points the look. reference: what rel-att and pure-grad divide by: the map of a
        generic instruction on the same image, or the map of a blank image with the same grid, which costs nothing after
        the first one. tiled: a map for each tile of about 1024 pixels, joined; for images that were shrunk a lot.
    crop_pixels: pixel budget of the crop, of each tile, or of the larger look; the most that an adapted one may have.
    context_pixels: of the original in a pair. layers: of the language model, 0-based, whose attention is averaged;
        empty: the middle third of them.
    fuse: "mean" of both looks' label logits, the look with the "max" margin, or the "second" one alone.
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
        """Whether a region has to be found first."""
        return self.look in POINTED

    @property
    def recorded(self) -> tuple[int, ...] | None:
        """Layers whose attention is recorded at the first look, because the map is made of it; None: nothing is."""
        return self.layers if self.pointed and self.method == "rel-att" else None
