"""The three checks' questions, repeated because models/ must not import scanfleet/. A unit test compares both.

The built-in model and the shipped adapters learnt them with the instruction before the image.
"""

from __future__ import annotations

from scanfleet.models.types import Question

OVERLAY = Question(
    name="overlay",
    prompt="Is there text in this image, and was it added on top of the picture or is it part of the scene?",
    labels=("overlay", "natural", "none"),
    flags=frozenset({"overlay"}),
    descriptions={"overlay": "text added on top", "natural": "text in the scene only", "none": "no text"},
    min_pixels=64 * 64,
    order="instruction-first",
)
BAGGAGE = Question(
    name="baggage",
    prompt="This is an X-ray scan of a bag. Which threat does it show?",
    labels=("knife", "gun", "scissors", "bottle", "none"),
    flags=frozenset({"knife", "gun", "scissors", "bottle"}),
    descriptions={
        "knife": "knife", "gun": "gun", "scissors": "scissors", "bottle": "bottle", "none": "no threat",
    },
    min_pixels=64 * 64,
    order="instruction-first",
)  # fmt: skip
RAZOR = Question(
    name="razor",
    prompt="This is an X-ray scan of a bag. Does it hold a razor blade?",
    labels=("blade", "none"),
    flags=frozenset({"blade"}),
    descriptions={"blade": "razor blade", "none": "no razor blade"},
    max_pixels=320 * 320,
    min_pixels=64 * 64,
    order="instruction-first",
)
SMALL = {"razor": RAZOR}  # about one small part; tools/pocket/small.py trains them
QUESTIONS = {"overlay": OVERLAY, "baggage": BAGGAGE, **SMALL}
