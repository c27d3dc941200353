"""The promotion gate: compare a new adapter with the one in use, on the same images.

Pure statistics on margins: it loads no model and reads no file. `judge` returns promote, hold or reject with the reason
and every figure; docs/gate.md explains the conditions.
"""

from scanfleet.models.promotion.judge import judge
from scanfleet.models.promotion.report import GateReport
from scanfleet.models.promotion.types import Facts, GateResult, Limits, Paired, Shadow, Side

__all__ = ["Facts", "GateReport", "GateResult", "Limits", "Paired", "Shadow", "Side", "judge"]
