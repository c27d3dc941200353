"""Why an image is flagged, for checks that ask for it.

Explanations come from a separate, generating pass over flagged images, as boxes do. They decide nothing: where there is
none, the verdict says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from scanfleet.checks.check import Check
from scanfleet.checks.explanation import Explanation
from scanfleet.errors import ScanfleetError
from scanfleet.models.errors import ModelError, ModelInvalid
from scanfleet.models.inputs.sources import POCKET
from scanfleet.models.types import Explainer, Question, Written
from scanfleet.redaction import storable
from scanfleet.worker.scoring.model import Model

log = structlog.get_logger()

UNTAUGHT = "the pocket model cannot write sentences: no explanation was asked for"
EMPTY = "the model wrote nothing"
LONGEST = 4000  # characters that are kept of an explanation
LONGEST_PROBLEM = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainPass:
    """What explains flags. explainer None: nothing, for the reason in `why_not`."""

    explainer: Explainer | None
    why_not: str = ""

    @property
    def nothing(self) -> Explanation:
        """What the verdict of a flagged image says if nothing explains it."""
        return Explanation(problem=self.why_not, lasting=True)


def explain_pass_of(model: Model, check: Check, question: Question, adapter: Path | None) -> ExplainPass | None:
    """Return what explains the flags of a check; None if it asks for nothing. Raises ModelUnavailable."""
    if not check.explain:
        return None
    if model.identity.base_model == POCKET:
        return ExplainPass(explainer=None, why_not=UNTAUGHT)
    try:
        return ExplainPass(explainer=model.explainer(replace(question, steps=()), adapter, tokens=check.explain_tokens))
    except ModelInvalid as error:
        return ExplainPass(explainer=None, why_not=storable(str(error))[:LONGEST_PROBLEM])


def explanation_of(result: Written | Exception) -> Explanation:
    """Return what is stored of a text, or of the error that prevented it: the image has its answer all the same."""
    if isinstance(result, Exception):
        known = isinstance(result, ScanfleetError | ModelError)
        words = storable(" ".join(f"{'' if known else f'unexpected {type(result).__name__}: '}{result}".split()))
        log.warning("explanation_failed", error=words[:LONGEST_PROBLEM])
        return Explanation(problem=words[:LONGEST_PROBLEM])
    text = storable(result.text).strip()
    if not text:
        return Explanation(problem=EMPTY, lasting=True)
    is_cut = result.cut or len(text) > LONGEST
    return Explanation(text=f"{text[:LONGEST].rstrip()}…" if is_cut else text)
