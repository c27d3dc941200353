"""Which frames of a file are decoded, and what looking for them may cost."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageChops

from scanfleet.images.types import FrameChoice

MOST_LOOKED_AT = 10_000  # frames
LOOK_PIXELS = 4  # times the largest picture allowed: all frames looked at may have so many pixels together
SMALL = (64, 64)  # of the grey copies that are compared
LEAST_DELAY, SHOWN_DELAY = 0.01, 0.1  # browsers show a frame of no more than the one for the other, in seconds


def within_reach(n_frames: int, n_pixels: int, max_pixels: int) -> int:
    """Return how many frames of n_pixels each may be looked at: at least one."""
    return max(1, min(n_frames, MOST_LOOKED_AT, LOOK_PIXELS * max_pixels // max(1, n_pixels)))


def candidates(n_frames: int, reach: int, choice: FrameChoice, *, sequential: bool) -> Sequence[int]:
    """Return the numbers of the frames to choose from: all, or as many as are within reach.

    Those are the first ones in a file that is read in sequence, and else lie evenly in it.
    """
    if sequential:
        return range(reach)
    return _evenly(n_frames, max(reach, choice.max)) if needs_changes(n_frames, choice) else range(n_frames)


def affordable(choice: FrameChoice, n_pixels: int, max_pixels: int) -> FrameChoice:
    """Return the choice with no more frames than have max_pixels together: at least one."""
    return choice._replace(max=max(1, min(choice.max, max_pixels // max(1, n_pixels))))


def needs_changes(n_frames: int, choice: FrameChoice) -> bool:
    """Return True if `choose` looks at how much the frames change."""
    return choice.pick == "mixed" and n_frames > choice.max > 2


def choose(n_frames: int, changes: Sequence[float], choice: FrameChoice) -> tuple[int, ...]:
    """Return the numbers of the chosen frames, in order.

    mixed: the first and the last, half of the rest evenly spaced, and then those that differ most from the frame
    before them. changes: by frame, needed only where `needs_changes` says so.
    """
    if n_frames <= choice.max:
        return tuple(range(n_frames))
    if choice.pick == "first":
        return tuple(range(choice.max))
    if choice.pick == "even" or choice.max <= 2:
        return _evenly(n_frames, choice.max)
    chosen = set(_evenly(n_frames, 2 + (choice.max - 2) // 2))
    rest = sorted(set(range(n_frames)) - chosen, key=lambda number: (-changes[number], number))
    return tuple(sorted(chosen.union(rest[: choice.max - len(chosen)])))


def _evenly(n_frames: int, n: int) -> tuple[int, ...]:
    if n == 1:
        return (0,)
    return tuple(number * (n_frames - 1) // (n - 1) for number in range(n))


def small_grey(image: Image.Image) -> Image.Image:
    """Return a small copy to compare with others; what is transparent is middle grey in it."""
    if image.mode != "RGBA":
        return image.resize(SMALL, Image.Resampling.BOX).convert("L")
    ground = Image.new("RGBA", SMALL, (128, 128, 128, 255))
    ground.alpha_composite(image.resize(SMALL, Image.Resampling.BOX))
    return ground.convert("L")


def change(before: Image.Image | None, after: Image.Image) -> float:
    """Return the mean difference of two small copies, in levels; 0 for the first one."""
    if before is None:
        return 0.0
    counts = ImageChops.difference(before, after).histogram()
    return sum(level * count for level, count in enumerate(counts)) / (SMALL[0] * SMALL[1])


def shown_seconds(seconds: float) -> float:
    """Return for how long browsers show a frame with this delay."""
    return SHOWN_DELAY if seconds <= LEAST_DELAY else seconds
