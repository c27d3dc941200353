"""A result as a table for people and as one line of JSON."""

from __future__ import annotations

import json
import statistics
from typing import Any

from tests.chaos.audit import MUST_BE_ZERO
from tests.chaos.run import Result


def as_dict(result: Result) -> dict[str, Any]:
    recovery = result.recovery
    return {
        **result.audit.as_dict(),
        "faults": dict(sorted(result.faults.items())),
        "n_faults": sum(result.faults.values()),
        "seconds": round(result.seconds, 1),
        "setup_seconds": round(result.setup_seconds, 1),
        "images_per_s": round((result.audit.verdicts + result.audit.failures) / max(result.seconds, 0.001), 1),
        "recovery": {
            "batches": len(recovery.free_seconds),
            **_spread("free", recovery.free_seconds),
            **_spread("claimed", recovery.claimed_seconds),
        },
        "undone_by_restores": result.undone,
        "restarts": result.restarts,
        "exits": {str(code): n for code, n in sorted(result.exits.items())},
        "last_exits": {str(code): n for code, n in sorted(result.last_exits.items())},
        "poison_images": result.options.n_poison,
        "seed": result.options.seed,
        "without": result.options.without,
        "stuck": result.stuck is not None,
        "holds": result.holds,
    }


def _spread(name: str, seconds: list[float]) -> dict[str, float | None]:
    middle, worst = (statistics.median(seconds), max(seconds)) if seconds else (None, None)
    found = {f"{name}_median_seconds": middle, f"{name}_worst_seconds": worst}
    return {key: None if value is None else round(value, 2) for key, value in found.items()}


def as_json(result: Result) -> str:
    return json.dumps(as_dict(result))


def as_table(result: Result) -> str:
    values = as_dict(result)
    faults = values.pop("faults")
    lines = [f"{name:28} {_cell(value)}{_mark(name, value)}" for name, value in values.items()]
    lines += ["", "faults"] + [f"  {kind:26} {n}" for kind, n in faults.items()]
    if result.stuck is not None:
        lines += ["", "stuck:", result.stuck]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return ", ".join(f"{name}: {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _mark(name: str, value: Any) -> str:
    return "   <-- must be 0" if name in MUST_BE_ZERO and value else ""
