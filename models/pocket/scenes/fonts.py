"""Type faces and words. Uses only fonts of installed packages: matplotlib's and Pillow's own."""

from __future__ import annotations

import random
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

# Faces in matplotlib's mpl-data with the Latin alphabet; the others are symbol sets.
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono",
    "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
WORDS = (
    "SALE", "NEW", "FREE", "OPEN", "STOP", "EXIT", "CAFE", "BEST", "HOT", "BUY", "NOW", "DEAL", "SHOP", "MILK",
    "RICE", "Fresh", "Coffee", "Hotel", "Summer", "Winter", "Offer", "Photo", "Music", "Bakery", "Garden", "Market",
    "Studio", "Family", "Travel", "Energy", "Organic", "Classic", "Limited", "today", "only", "more", "love",
    "home", "food", "style", "save", "taxi", "bank", "park", "north", "river",
)  # fmt: skip
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@lru_cache(maxsize=1)
def _folder() -> Path:
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "generated scenes need matplotlib's fonts: "
            "in a clone of scanfleet run: pip install -c constraints.txt '.[worker]' (docs/install.md)"
        )
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=4096)
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a face at a pixel size; "builtin" is Pillow's own."""
    if face == "builtin":
        loaded = ImageFont.load_default(size)
        assert isinstance(loaded, ImageFont.FreeTypeFont)
        return loaded
    return ImageFont.truetype(_folder() / f"{face}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


def any_font(rng: random.Random, size: int) -> ImageFont.FreeTypeFont:
    return font(rng.choice((*FACES, "builtin")), size)


def word(rng: random.Random) -> str:
    """Return a shop word, a price, a made-up word, a handle or an address."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(WORDS)
    if kind < 0.7:
        return "".join(rng.choice("bcdfghklmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(1, 3))).title()
    if kind < 0.82:
        return f"${rng.randint(1, 99)}" + rng.choice(("", ".99", ".50"))
    if kind < 0.9:
        return f"-{rng.randint(1, 9)}0%"
    if kind < 0.95:
        return "@" + rng.choice(WORDS).lower()
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))


def phrase(rng: random.Random, most: int) -> str:
    """Return one to `most` words."""
    text = " ".join(word(rng) for _ in range(rng.randint(1, most)))
    return text.upper() if rng.random() < 0.3 else text
