"""Why an image is flagged, in the model's words, as the ledger holds it beside a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The explanation of a flagged image.

    text: untrusted, since an image can dictate it; it ends with an ellipsis if it was cut off. None: there is none, for
    the reason in `problem`. lasting: the same scorer has none at a second try either.
    """

    text: str | None = None
    problem: str | None = None
    lasting: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing more can be had."""
        return self.text is not None or self.lasting

    def record(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, held: Mapping[str, Any] | None) -> Explanation | None:
        """Read the values written by `record`."""
        return None if held is None else cls(**held)
