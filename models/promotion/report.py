"""The gate's report: a verdict, its reason and every figure, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from scanfleet.models.promotion.types import GateResult, Outcome, Verdict

MARKS: Mapping[Outcome, str] = {"pass": "pass", "fail": "FAIL", "undecided": "open", "skipped": "-"}


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdict on a challenger with everything behind it.

    Attributes:
        verdict: promote, hold or reject.
        reason: The condition that decided, in words.
        champion: Name of the model in use.
        challenger: Name of the new model.
        n_golden: Golden images that were compared.
        results: One result per condition.
        power: What this golden set can and cannot show.
        notes: What you must know before you use the challenger, apart from the verdict.
        figures: Both models on the golden set, side by side.
    """

    verdict: Verdict
    reason: str
    champion: str
    challenger: str
    n_golden: int
    results: tuple[GateResult, ...]
    power: str
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def promotes(self) -> bool:
        return self.verdict == "promote"

    def record(self) -> dict[str, Any]:
        """Return every figure as plain JSON; `from_record` reads it back."""
        return {**asdict(self), "results": [asdict(result) for result in self.results], "notes": list(self.notes)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record. Older records have no notes.

        Raises:
            TypeError: The record is not a gate report.
        """
        results = tuple(GateResult(**result) for result in record["results"])
        return cls(**{**record, "results": results, "notes": tuple(record.get("notes", ()))})

    def lines(self) -> list[str]:
        """Return the verdict, the notes, one line per condition and both models side by side."""
        out = [f"{self.verdict}: {self.reason}", *self.notes, ""]
        out += [f"{result.gate}  {MARKS[result.outcome]:<5} {result.title}: {result.words}" for result in self.results]
        out += ["", self.power, "", *self._side_by_side()]
        return out

    def _side_by_side(self) -> list[str]:
        champion, challenger = self.figures.get("champion", {}), self.figures.get("challenger", {})
        rows = [("", "champion", "challenger"), ("", self.champion, self.challenger)]
        rows += [
            (name.replace("_", " "), _shown(champion.get(name)), _shown(challenger.get(name)))
            for name in challenger
            if isinstance(challenger[name], int | float | None) and not isinstance(challenger[name], bool)
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
