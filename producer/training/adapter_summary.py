"""Summarises an adapter for people and programs. Any key of the registry's JSON may be absent. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.db.training.champions import Change
from scanfleet.stats.proportions import calibration_text, positives_text

ACCURACIES = ("label_accuracy", "accuracy", "flag_accuracy")
MARKS = {"pass": "pass", "fail": "FAIL", "undecided": "open"}


def record(adapter: AdapterInfo, *, in_use: bool) -> dict[str, Any]:
    """Return everything in the registry as plain JSON."""
    times = {"created_at": None if adapter.created_at is None else adapter.created_at.isoformat()}
    return asdict(adapter) | times | {"in_use": in_use}


def headline(adapter: AdapterInfo) -> str | None:
    """Return the main figure, such as `accuracy 0.839 of 1420`."""
    for name in ACCURACIES:
        found = adapter.metrics.get(name)
        if isinstance(found, Mapping) and isinstance(found.get("value"), float | int):
            return f"{name.replace('_', ' ')} {found['value']:.3f} of {found.get('n', '?')}"
    return None


def facts(adapter: AdapterInfo) -> Iterator[tuple[str, str]]:
    """Yield (name, text) as `adapters show` prints them."""
    yield "check", f"{adapter.check_name} (version {adapter.check_hash[:12]})"
    yield "base", f"{adapter.base_model} at {adapter.base_revision}"
    yield "weights", f"sha256 {adapter.weights_sha256}"
    yield "files", adapter.uri
    yield "made", _origin(adapter)
    yield "recipe", _flat(adapter.recipe) or "unknown"
    for name, value in adapter.metrics.items():
        if not name.endswith("_certificate"):
            yield "metric", f"{name.replace('_', ' ')}: {_figure(value)}"
    yield "score", _score(adapter.calibrator)
    yield "clears", _threshold(adapter, "review", "at or below", "recall")
    yield "flags", _threshold(adapter, "flag", "at or above", "precision")
    yield "canary", _canary(adapter.canary)


def gate_lines(gate: Mapping[str, Any] | None, verdict: str | None) -> Iterator[str]:
    """Yield the verdict, then one line per condition."""
    if gate is None:
        yield verdict or "never judged"
        return
    yield f"{verdict or gate.get('verdict')}: {gate.get('reason', 'no reason is stored')}"
    for result in gate.get("results", ()):
        mark = MARKS.get(result.get("outcome"), "-")
        yield f"  {result.get('gate')}  {mark:<5} {result.get('title')}: {result.get('words')}"
    if gate.get("power"):
        yield f"  {gate['power']}"


def change_line(change: Change) -> str:
    who = f" by {change.who}" if change.who else ""
    was = _name(change.previous_id)
    return f"{change.at:%Y-%m-%d %H:%M}  {change.kind}{who}: {_name(change.adapter_id)} replaces {was}: {change.why}"


def _name(adapter_id: int | None) -> str:
    return "the base model alone" if adapter_id is None else f"adapter {adapter_id}"


def _origin(adapter: AdapterInfo) -> str:
    when = "" if adapter.created_at is None else f", registered {adapter.created_at:%Y-%m-%d %H:%M}"
    return ("outside" if adapter.training_id is None else f"by training {adapter.training_id}") + when


def _score(calibrator: Mapping[str, Any] | None) -> str:
    if calibrator is None:
        return "none: not calibrated"
    a, b, n = (calibrator.get(name) for name in ("a", "b", "n"))
    fitted_on = calibration_text(n) if isinstance(n, int) else f"{n} images"
    return f"sigmoid({_number(a)} margin {_number(b, signed=True)}), fitted on {fitted_on}"


def _threshold(adapter: AdapterInfo, name: str, side: str, target: str) -> str:
    """Describe a threshold on the margin and its certificate."""
    if adapter.thresholds is None:
        return "by the sign of the margin, or a score of one half: no threshold is stored"
    value = adapter.thresholds.get(name)
    certificate = adapter.metrics.get(f"{target}_certificate")
    asked = certificate.get("target") if isinstance(certificate, Mapping) else adapter.metrics.get(f"{target}_target")
    goal = target if asked is None else f"{target} of {_number(asked)}"
    share = _certified_at(adapter, certificate) if name == "flag" else None
    place = "" if share is None else f" {positives_text(share)}"
    if value is None:
        return f"never: a {goal} could not be certified{place}"
    return f"margins {side} {_number(value)}: a {goal} is certified{place}"


def _certified_at(adapter: AdapterInfo, certificate: object) -> float | None:
    """Return the share of positives that a precision refers to; cards without it mean that of their labels."""
    stored = certificate.get("prevalence") if isinstance(certificate, Mapping) else None
    found = stored if stored is not None else (adapter.calibrator or {}).get("prevalence")
    return found if isinstance(found, float) else None


def _canary(canary: Mapping[str, Any] | None) -> str:
    if canary is None:
        return "none: workers cannot test it before they use it"
    return f"{len(canary.get('images', ()))} images, margins in {canary.get('precision', 'fp32')}"


def _figure(value: object) -> str:
    if isinstance(value, Mapping) and "value" in value:
        low, high = value.get("low"), value.get("high")
        between = "" if low is None or high is None else f" ({_number(low)} to {_number(high)})"
        return f"{_number(value['value'])}{between} of {value.get('n', '?')}"
    return _flat(value) if isinstance(value, Mapping) else _number(value)


def _flat(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(each)}" for name, each in value.items() if not isinstance(each, Mapping | list))


def _number(value: object, *, signed: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:+.4g}" if signed else f"{value:.4g}"
