"""The claims of virtual workers, and the outcomes of scoring."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.results.verdicts import Outcome
from scanfleet.db.scans.batches import Claim, ClaimedImage
from scanfleet.errors import ImageError


class Answer(enum.Enum):
    """The outcome of an image that is worked on."""

    CLEAR = "clear"
    REVIEW = "review"
    FLAG = "flag"
    REUSED = "reused"  # the same bytes were answered before: nothing is fetched
    BROKEN = "broken"
    WAITS = "waits"  # a transient error


@dataclass(eq=False)
class Held:
    """A claim in the memory of a worker."""

    claim: Claim
    left: list[ClaimedImage] = field(default_factory=list)  # of a suspect: not yet begun
    in_hand: ClaimedImage | None = None
    waits: bool = False  # an image of it met a transient error

    @classmethod
    def of(cls, claim: Claim) -> Held:
        return cls(claim, left=list(claim.images) if claim.suspect else [])

    @property
    def alone(self) -> bool:
        """True if an image of a suspect is left."""
        return bool(self.left or self.in_hand)


def outcome(scorer: int, images: Sequence[ClaimedImage], answers: Sequence[Answer], *, store: bool) -> Outcome:
    """Return the outcome of one attempt. store: the transient error is the image store's, not the model's."""
    given = [(image, answers[at % len(answers)]) for at, image in enumerate(images)]
    n_waiting = sum(answer is Answer.WAITS for _, answer in given)
    n_unfetched = sum(answer is Answer.REUSED for _, answer in given) + (n_waiting if store else 0)
    n_fetched = len(given) - n_unfetched
    return Outcome(
        scorer_id=scorer,
        verdicts=[_verdict(image, answer) for image, answer in given if answer not in (Answer.BROKEN, Answer.WAITS)],
        failures={
            image.id: ImageError(stage="decode", reason="truncated", detail="virtual")
            for image, answer in given
            if answer is Answer.BROKEN
        },
        waiting_for="a transient error" if n_waiting else None,
        store_away=store and n_waiting > 0 and not n_fetched,
        n_fetched=n_fetched,
    )


def _verdict(image: ClaimedImage, answer: Answer) -> NewVerdict:
    return NewVerdict(
        image_id=image.id,
        identity=image.identity,
        content_sha256=f"sha-{image.uri}",
        width=10,
        height=20,
        label="overlay",
        decision="clear" if answer is Answer.REUSED else answer.value,
        score=None,
        margin=1.5,
        mass=1.0,
        logits=(1.0, 0.0, 0.0),
        reused_from=1 if answer is Answer.REUSED else None,
    )
