"""The problems of a file of labels: what refuses it, and what is left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scanfleet.config.validation import printable
from scanfleet.errors import BadLabels

SHOWN_PROBLEMS = 5
MAX_PROBLEMS = 1000  # a file with more has another format


class Reason:
    """Why a part of a file is left out, for the summary."""

    INVALID = "not valid, or without an image"
    BOX = "a box without area, outside its image or not in numbers"
    DOUBT = "its label is in doubt"
    CONTRADICTION = "labelled in two ways"
    SIZE = "made on an image of another shape"
    ATTRIBUTE = "an attribute that is neither text nor number"
    MACHINE = "labelled by a machine"


@dataclass
class Problems:
    """Collects the problems of a file, to report them all at once. ending: the consequence, for the message.

    A problem that concerns one image or box leaves that out, unless `strict`; any other refuses the file. left_out:
    the first ones, reasons: the number of all.
    """

    name: str
    found: list[str] = field(default_factory=list)
    ending: str = "nothing was written"
    strict: bool = True
    left_out: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def copy(self) -> Problems:
        """Return problems of their own that begin with these."""
        return replace(self, found=[*self.found], left_out=[*self.left_out], reasons=Counter(self.reasons))

    def add(self, where: str, words: str) -> None:
        """Raises BadLabels after MAX_PROBLEMS."""
        self.found.append(f"{where}: {printable(words)}")
        if len(self.found) >= MAX_PROBLEMS:
            self.raise_any()

    def leave_out(self, where: str, words: str, reason: str = Reason.INVALID) -> None:
        """Note an image or a box that is left out. Raises BadLabels if strict, after MAX_PROBLEMS."""
        if self.strict:
            self.add(where, words)
            return
        self.reasons[reason] += 1
        if len(self.left_out) < MAX_PROBLEMS:
            self.left_out.append(f"{where}: {printable(words)}")

    def raise_any(self) -> None:
        """Raises BadLabels if anything was found."""
        if self.found:
            raise BadLabels(f"{self.name}: {_first(self.found)}; {self.ending}")

    def require_some(self, left: Iterable[object]) -> None:
        """Raises BadLabels if everything was left out."""
        if self.left_out and not any(True for _ in left):
            raise BadLabels(f"{self.name}: no label is left: {_first(self.left_out)}; {self.ending}")


def _first(found: list[str]) -> str:
    more = f"; and {len(found) - SHOWN_PROBLEMS} more" if len(found) > SHOWN_PROBLEMS else ""
    some = f"{len(found)} problems: " if len(found) > 1 else ""
    return f"{some}{'; '.join(found[:SHOWN_PROBLEMS])}{more}"
