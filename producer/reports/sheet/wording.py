"""What the decisions, the figures and the sections of a sheet mean, in words for people who know no margins. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from scanfleet.checks.check import Check
from scanfleet.db.results.results import ResultFilter
from scanfleet.db.results.scorers import ScorerUse
from scanfleet.producer.reports.agreement import Agreement
from scanfleet.producer.reports.sheet.charts import Rate
from scanfleet.producer.reports.sheet.truth import Fault

SECTIONS: Mapping[str, str] = {
    "wrong": "Wrong answers",
    "review": "To review",
    "flag": "Flagged",
    "clear": "Clear",
    "other": "Without an answer",
}
REVIEW = "The model is not sure enough of these: a person should look."
FAULT_WORDS: Mapping[Fault, str] = {
    "missed": "missed (clear, and should have been flagged)",
    "false alarm": "false alarms (flagged, and should not have been)",
    "wrong label": "with a wrong label",
}


def section_in_words(kind: str, faults: Mapping[Fault, int]) -> str:
    """Say what a section holds. faults: counts over all images, shown or not."""
    if kind == "wrong":
        counts = ", ".join(f"{faults[name]:,} {words}" for name, words in FAULT_WORDS.items() if faults.get(name))
        return f"What is known to be true contradicts these answers: {counts}."
    if kind == "review":
        return REVIEW
    return "Without those above." if faults else ""


def decisions_in_words(check: Check, scorers: Sequence[ScorerUse]) -> list[tuple[str, str]]:
    """Return (decision, meaning). A promise is made only if every scorer of the scan makes it."""
    if not check.flags:
        return [
            ("clear", "the label shown is the most likely one"),
            ("review", "no label has half of the probability: a person should look"),
        ]
    what = " or ".join(check.flags)
    flag, clear = (_certified(scorers, name) for name in ("flag", "review"))
    return [
        (
            "flag",
            f"very likely {what}: measured on labelled images, at least {check.target_precision:.0%} of flags are right"
            if flag
            else f"rather {what} than not; how often that is right was never measured well enough to promise it",
        ),
        ("review", "not sure enough: a person should look"),
        (
            "clear",
            f"very likely not {what}: measured on labelled images, flags and reviews together find at least "
            f"{check.target_recall:.0%} of what should be found"
            if clear
            else f"rather not {what}; how much is missed was never measured well enough to promise it",
        ),
    ]


def score_in_words(check: Check, scorers: Sequence[ScorerUse]) -> str:
    calibrated = scorers and all(scorer.calibrator is not None for scorer in scorers)
    if not check.flags:
        if calibrated:
            return "The score is the estimated chance, from 0 to 1, that the label shown is right."
        return (
            "The margin says how far the label shown is ahead of all others together: below 0 it has less than half of "
            "the probability."
        )
    if calibrated:
        return "The score is the estimated chance, from 0 to 1, that an image should be flagged."
    return (
        "Scores are not calibrated, so there are margins: the further above 0, the more the model is for a flag; "
        "the further below, the more against it."
    )


def _certified(scorers: Sequence[ScorerUse], threshold: str) -> bool:
    return bool(scorers) and all((scorer.thresholds or {}).get(threshold) is not None for scorer in scorers)


def rates(found: Agreement) -> list[Rate]:
    """Return the rates of an agreement, each as a question that a person would ask."""
    accuracy = Rate(question="How many labels are right?", name="accuracy", share=found.accuracy())
    if not found.flags:
        return [accuracy]
    return [
        Rate(question="How many of the flags are right?", name="precision of flags", share=found.precision("flag")),
        Rate(
            question="How many of those that should be flagged are flagged?",
            name="recall of flags",
            share=found.recall("flag"),
        ),
        Rate(
            question="How many of them are flagged or reach a person?",
            name="recall of flags and reviews",
            share=found.recall("flag", "review"),
        ),
        accuracy,
    ]


def filters_in_words(wanted: ResultFilter) -> list[str]:
    """Return the conditions of a filter, beside the scan.

    >>> filters_in_words(ResultFilter(scan="k7m2", prefix="/ads/", min_score=0.5))
    ['prefix /ads/', 'min score 0.5']
    """
    found = [(each.name, getattr(wanted, each.name)) for each in fields(wanted) if each.name != "scan"]
    return [
        f"{name.replace('_', ' ')} {_in_words(value)}" for name, value in found if value not in (None, False, (), {})
    ]


def _in_words(value: object) -> str:
    """Return a value of a filter: one, one of several, or a pair of column and value."""
    if not isinstance(value, tuple | list):
        return "none" if value is None else str(value)
    return " or ".join("=".join(each) if isinstance(each, tuple) else _in_words(each) for each in value)
