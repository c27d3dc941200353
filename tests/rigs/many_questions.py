"""A fake model that answers several questions in one forward, and counts what it is given."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from scanfleet.checks.check import Check
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import Question, Reading, Scorer, SeveralScorer
from scanfleet.worker.scoring.model import FakeModel


def question_named(name: str, **more: Any) -> Check:
    return Check(name=name, prompt=f"Is there a {name}?", labels=("yes", "no"), flags=("yes",), **more)


class PlainScorer(FakeScorer):
    """Prepares an image without its question, as real scorers do."""

    def prepare(self, image: Image.Image) -> FakePrepared:
        digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        return replace(super().prepare(image), digest=digest)

    def _read(self, image: FakePrepared) -> Reading:
        asked = hashlib.sha256(self.question.name.encode() + image.digest).digest()
        return super()._read(replace(image, digest=asked))


class ManyModel(FakeModel):
    """forwards: for each, the questions that it answered and the number of its images.

    broken: checks whose scorers cannot be made. together_fails: forwards of several questions fail.
    """

    def __init__(self, name: str = "fake", **how: Any) -> None:
        super().__init__(name, **how)
        self.forwards: list[tuple[tuple[str, ...], int]] = []
        self.n_prepared = 0
        self.broken: set[str] = set()
        self.together_fails: type[Exception] | None = None

    def scorer(self, question: Question, adapter: Path | None, **_: Any) -> Scorer:
        if question.name in self.broken:
            raise ModelInvalid(f"the weights of {question.name} are damaged")
        return cast("Scorer", _Counted(question, self))

    def together(self, scorers: Sequence[Scorer]) -> SeveralScorer | None:
        return _Together(cast("Sequence[_Counted]", scorers), self)

    def n_images(self) -> dict[tuple[str, ...], int]:
        """Images by the questions that a forward asked of them."""
        found: Counter[tuple[str, ...]] = Counter()
        for asked, n in self.forwards:
            found[asked] += n
        return dict(found)

    @property
    def n_read(self) -> int:
        """Images that forwards have read, counted again for each forward."""
        return sum(n for _, n in self.forwards)


class _Counted(PlainScorer):
    def __init__(self, question: Question, model: ManyModel) -> None:
        super().__init__(question=question)
        self._model = model

    def prepare(self, image: Image.Image) -> FakePrepared:
        self._model.n_prepared += 1
        return super().prepare(image)

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        self._model.forwards.append(((self.question.name,), len(prepared)))
        return super().score(prepared)

    def read(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        return super().score(prepared)


class _Together:
    def __init__(self, scorers: Sequence[_Counted], model: ManyModel) -> None:
        self._scorers = scorers
        self._model = model

    def score(self, prepared: Sequence[Any]) -> list[list[Reading]]:
        self._model.forwards.append((tuple(each.question.name for each in self._scorers), len(prepared)))
        if self._model.together_fails is not None:
            raise self._model.together_fails("no")
        return [each.read(prepared) for each in self._scorers]
