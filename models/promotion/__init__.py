"""The promotion gate: is a new adapter better than the one in use, on the same images, and at what price?

Pure statistics on margins: it loads no model and reads no file. `judge` gives promote, hold or reject with the reason
and every figure; conditions and their readings are in docs/gate.md.
"""

from models.promotion.judge import judge
from models.promotion.report import GateReport
from models.promotion.types import Facts, GateResult, Limits, Paired, Shadow, Side

__all__ = ["Facts", "GateReport", "GateResult", "Limits", "Paired", "Shadow", "Side", "judge"]
