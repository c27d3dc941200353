"""Counts all images of a sheet and chooses those that it shows, in one pass and in memory that does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scanfleet.checks.check import Check
from scanfleet.db.results.brief import Brief
from scanfleet.db.results.results import ResultFilter
from scanfleet.producer.reports.agreement import Agreement
from scanfleet.producer.reports.sheet.truth import FAULTS, Fault, Said, fault, worst

Order = Literal["score", "lowest", "doubt", "name"]
ORDERS: tuple[Order, ...] = ("score", "lowest", "doubt", "name")
KINDS = ("wrong", "review", "flag", "clear", "other")  # sections of a sheet; other: without an answer
BINS = 20  # of a histogram
SPARE = 1000  # images beyond the limit that are held before they are sorted


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a sheet shows. truth: column of the manifest. wrong: only answers that truth or a label contradicts.

    order: None: the surest first. A sheet without conditions on the answer leaves out what is clear.
    """

    filter: ResultFilter
    truth: str | None = None
    wrong: bool = False
    order: Order | None = None
    limit: int

    @property
    def scope(self) -> ResultFilter:
        """The images that the figures count: the filter without its conditions on the answer."""
        return replace(self.filter, state=None, label=None, decision=None, reason=None, min_score=None, max_score=None)

    @property
    def by_answer(self) -> bool:
        wanted = self.filter
        bounded = wanted.min_score is not None or wanted.max_score is not None
        return bounded or any((wanted.state, wanted.label, wanted.decision, wanted.reason))

    def admits(self, image: Brief) -> bool:
        """Check the conditions on the answer, which `scope` leaves out."""
        wanted = self.filter
        for value, found in (
            (wanted.state, image.state),
            (wanted.label, image.label),
            (wanted.decision, image.decision),
            (wanted.reason, image.reason),
        ):
            if value and found not in ([value] if isinstance(value, str) else value):
                return False
        if wanted.min_score is not None and (image.score is None or image.score < wanted.min_score):
            return False
        return wanted.max_score is None or (image.score is not None and image.score <= wanted.max_score)


@dataclass(kw_only=True)
class Tally:
    """Counts over all images of a sheet's scope. scores, margins: (bin, decision) -> images."""

    n_images: int = 0
    states: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # (decision, label)
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, reason)
    scores: Counter[tuple[int, str]] = field(default_factory=Counter)
    margins: Counter[tuple[int, str]] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)

    def decided(self, decision: str) -> int:
        return sum(n for (each, _), n in self.answers.items() if each == decision)

    def add(self, image: Brief) -> None:
        self.n_images += 1
        self.states[image.state] += 1
        if image.stage is not None and image.reason is not None:
            self.failures[image.stage, image.reason] += 1
        if image.decision is None or image.label is None:
            return
        self.answers[image.decision, image.label] += 1
        if image.score is not None:
            self.scores[_bin(image.score, 0.0, 1.0), image.decision] += 1
        if image.margin is not None:
            self.margins[_bin(image.margin, -10.0, 10.0), image.decision] += 1


class Sheet:
    """The figures and the choice of images of one sheet: give it every image of the scope, then ask."""

    def __init__(self, check: Check, wanted: Wanted, said: Mapping[str, Said]) -> None:
        self.wanted = wanted
        self.tally = Tally()
        self.by_truth = Agreement(check.labels, check.flags)
        self.by_label = Agreement(check.labels, check.flags)
        self.by_random_label = Agreement(check.labels, check.flags)
        self._check = check
        self._said = said
        self._kinds = {kind: _First(wanted.limit) for kind in KINDS}

    def add(self, image: Brief) -> None:
        self.tally.add(image)
        said = self._said.get(image.content_sha256 or "")
        found = self.fault_of(image, said)
        if found is not None:
            self.tally.faults[found] += 1
        self._compare(image, said)
        if not self.wanted.admits(image):
            return
        kind = "wrong" if found is not None else image.decision or "other"
        if self._shows(kind):
            self._kinds[kind].add(self._key(image, found), image.image_id)

    def said_of(self, content_sha256: str | None) -> Said | None:
        return self._said.get(content_sha256 or "")

    def truth_of(self, meta: Mapping[str, Any] | None) -> object:
        """Return the value of the truth's column; None where there is none."""
        return None if self.wanted.truth is None else (meta or {}).get(self.wanted.truth)

    def fault_of(self, image: Any, said: Said | None) -> Fault | None:
        """Say how truth or label contradict the answer of a Brief or a Result. Unknown labels contradict nothing."""
        if image.label is None:
            return None
        known = [each for each in (self.truth_of(image.meta), said and said.label) if each in self._check.labels]
        answer = {"label": image.label, "decision": image.decision, "flags": self._check.flags}
        return worst(fault(each, **answer) for each in known)

    def matching(self) -> dict[str, int]:
        """Return kind -> images that match, whether they are shown or not."""
        return {kind: held.n for kind, held in self._kinds.items() if held.n}

    def chosen(self) -> dict[str, list[int]]:
        """Return kind -> ids of the images to show, in order. Kinds have equal shares of the limit."""
        counts = self.matching()
        shares = fair_shares(self.wanted.limit, list(counts.values()))
        return {kind: self._kinds[kind].ids()[:share] for kind, share in zip(counts, shares, strict=True)}

    def _shows(self, kind: str) -> bool:
        if self.wanted.wrong:
            return kind == "wrong"
        if self.wanted.by_answer or not self._check.flags:
            return kind != "other" or self.wanted.by_answer
        return kind in ("wrong", "review", "flag")

    def _compare(self, image: Brief, said: Said | None) -> None:
        truths: list[tuple[Agreement, object]] = []
        if self.wanted.truth is not None:
            truths.append((self.by_truth, self.truth_of(image.meta)))
        if said is not None:
            truths.append((self.by_label, said.label))
            if said.drawn == "random":
                truths.append((self.by_random_label, said.label))
        for agreement, truth in truths:
            agreement.add(truth, label=image.label, decision=image.decision)

    def _key(self, image: Brief, found: Fault | None) -> tuple[Any, ...]:
        if self.wanted.order is not None:
            return (*_KEYS[self.wanted.order](image), image.image_id)
        if found is not None:  # missed ones first, the surest errors on top
            return (FAULTS.index(found), -abs(image.margin or 0.0), image.image_id)
        return (*_KEYS["score"](image), image.image_id)


_KEYS: Mapping[Order, Callable[[Brief], tuple[Any, ...]]] = {
    "score": lambda image: (image.score is None, -(image.score or 0.0), -(image.margin or 0.0)),
    "lowest": lambda image: (image.score is None, image.score or 0.0, image.margin or 0.0),
    "doubt": lambda image: (abs(image.margin or 0.0),),
    "name": lambda image: (image.uri,),
}


class _First:
    """Keeps the first images by a key, and counts all."""

    def __init__(self, limit: int) -> None:
        self.n = 0
        self._limit = limit
        self._held: list[tuple[tuple[Any, ...], int]] = []

    def add(self, key: tuple[Any, ...], image_id: int) -> None:
        self.n += 1
        self._held.append((key, image_id))
        if len(self._held) > 2 * self._limit + SPARE:
            self._trim()

    def ids(self) -> list[int]:
        self._trim()
        return [image_id for _, image_id in self._held]

    def _trim(self) -> None:
        self._held = sorted(self._held)[: self._limit]


def fair_shares(limit: int, counts: Sequence[int]) -> list[int]:
    """Divide `limit` places among kinds equally; what one does not need goes to the others.

    >>> fair_shares(10, [1, 20, 6]), fair_shares(10, [20, 20, 20]), fair_shares(10, [])
    ([1, 5, 4], [4, 3, 3], [])
    """
    shares = [0] * len(counts)
    left = min(limit, sum(counts))
    while left:
        needy = [place for place, count in enumerate(counts) if shares[place] < count]
        each = max(left // len(needy), 1)
        for place in needy:
            more = min(each, counts[place] - shares[place], left)
            shares[place] += more
            left -= more
    return shares


def _bin(value: float, low: float, high: float) -> int:
    return min(max(int((value - low) / (high - low) * BINS), 0), BINS - 1)
