"""Whether a format that has only boxes can say the label of an image: the import must read the same one."""

from __future__ import annotations

from dataclasses import dataclass

from scanfleet.checks.check import Check
from scanfleet.db.labels.labels import CurrentLabel
from scanfleet.producer.labels.label_names import most_telling


@dataclass(frozen=True, kw_only=True)
class Sayable:
    """empty: the label of an image without boxes; None: the label that does not flag, if there is exactly one."""

    check: Check
    empty: str | None = None

    def nothing(self) -> str | None:
        harmless = [label for label in self.check.labels if label not in self.check.flags]
        return self.empty or (harmless[0] if len(harmless) == 1 else None)

    def by_boxes(self, one: CurrentLabel) -> bool:
        kinds = {box["label"] for box in one.boxes or ()}
        if not kinds:
            return one.label == self.nothing()
        return kinds <= set(self.check.labels) and most_telling(kinds, self.check) == one.label
