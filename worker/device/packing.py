"""Choose the waiting images that go through the device together. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def pack(tokens: Sequence[int], *, budget: int) -> list[int]:
    """Return the positions of the images for the next forward; the oldest (position 0) is always among them.

    tokens: visual tokens of each waiting image, oldest first. A forward pads every image to its longest, so its cost
    is images x longest. Images nearest in size to the oldest join it first, which wastes the least. The cost never
    exceeds `budget`, except for a single image that is larger than the budget: it goes alone.
    """
    oldest = tokens[0]
    by_distance = sorted(range(1, len(tokens)), key=lambda at: (abs(tokens[at] - oldest), at))
    taken, longest = [0], oldest
    for at in by_distance:
        wider = max(longest, tokens[at])
        if (len(taken) + 1) * wider <= budget:
            taken.append(at)
            longest = wider
        elif tokens[at] <= longest:
            break  # the forward is full: not even an image that needs no further padding fits
    return sorted(taken)
