"""Type faces of a folder of font files, and words in the scripts that they cover."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from scanfleet.models.pocket.scenes.fonts import phrase

# First and last code point of the letters that words are drawn from; scripts that need shaping are left unshaped.
SCRIPTS = {
    "latin": (0x41, 0x7A),
    "greek": (0x391, 0x3C9),
    "cyrillic": (0x410, 0x44F),
    "hebrew": (0x5D0, 0x5EA),
    "arabic": (0x627, 0x64A),
    "devanagari": (0x905, 0x939),
    "tamil": (0xB85, 0xBB9),
    "thai": (0xE01, 0xE2E),
    "kana": (0x3042, 0x30F3),
    "han": (0x4E00, 0x6FFF),
    "hangul": (0xAC00, 0xC7FF),
}
ACCENTS = "ÄÖÜßéèçñøåžščőę"
LATIN_SHARE = 0.72


@dataclass(frozen=True, kw_only=True)
class Face:
    """A font file and the letters that it has of each script."""

    path: Path
    letters: dict[str, str]


def _letters(path: Path) -> dict[str, str]:
    try:
        known = TTFont(path, fontNumber=0, lazy=True).getBestCmap() or {}
    except (TTLibError, AssertionError, KeyError):  # bitmaps and damaged files have no letters
        return {}
    found = {}
    for script, (first, last) in SCRIPTS.items():
        own = [chr(code) for code in range(first, last + 1) if code in known and chr(code).isalpha()]
        if len(own) >= 15 and (script != "latin" or (len(own) == 52 and ord("0") in known)):
            found[script] = "".join(own)
    return found


class Faces:
    """All faces below a folder, sorted by name so that a seed gives the same words everywhere."""

    def __init__(self, folder: Path) -> None:
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".ttf", ".otf", ".ttc"))
        every = [Face(path=path, letters=found) for path in files if (found := _letters(path))]
        if not every:
            raise SystemExit(f"{folder}: no font files: run python -m tools.pocket.photographs.packages --out DIR")
        self._of = {script: [face for face in every if script in face.letters] for script in SCRIPTS}

    def __len__(self) -> int:
        return len({face.path for faces in self._of.values() for face in faces})

    def choose(self, rng: random.Random) -> tuple[Path, str]:
        """Return a face's file and its script."""
        others = [script for script in SCRIPTS if script != "latin" and self._of[script]]
        script = "latin" if rng.random() < LATIN_SHARE or not others else rng.choice(others)
        return rng.choice(self._of[script]).path, script

    def words(self, rng: random.Random, script: str, path: Path, most: int) -> str:
        """Return one to `most` words that the face can write."""
        if script == "latin":
            text = phrase(rng, most)
            return text if rng.random() < 0.85 else f"{text} {rng.choice(ACCENTS)}"
        letters = next(face for face in self._of[script] if face.path == path).letters[script]
        return " ".join(
            "".join(rng.choice(letters) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, most))
        )


@lru_cache(maxsize=2048)
def sized(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
