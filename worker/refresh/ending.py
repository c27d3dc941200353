"""From the first stage to the last word: all stages in order, the report, and the pointer."""

from __future__ import annotations

from typing import Any

from scanfleet.errors import DeviceUnavailable
from worker.refresh.context import Context, Stage, run_stages
from worker.refresh.publishing import ChampionMoved, promote
from worker.refresh.work import REPORT

MAX_COMPARISONS = 3  # with a champion that was replaced meanwhile each time


def finish(context: Context, stages: tuple[tuple[str, Stage], ...]) -> str:
    """Run what is left to do. Returns the gate's verdict."""
    for _ in range(MAX_COMPARISONS):
        run_stages(context, stages)
        context.tell.begin("promote", len(stages))
        report = report_of(context)
        context.work.write(REPORT, report)
        try:
            promote(context, report)
        except ChampionMoved:
            context.work.forget("compare")
            continue
        verdict: str = report["gate"]["verdict"]
        return verdict
    raise DeviceUnavailable("the champion was changed during each comparison")


def report_of(context: Context) -> dict[str, Any]:
    """Every figure, by what it is about."""
    results, held = context.results, context.held
    trained = {name: value for name, value in results["fit"].items() if name != "seconds"}
    return {
        "check": held.check_name,
        "base_model": held.base_model,
        "reason": held.reason,
        "seed": held.seed,
        "newest_label": held.newest_label,
        "labels": results["images"]["labels"],
        "left_out": results["images"]["left_out"],
        "fit": trained,
        "calibration": {name: results["calibrate"][name] for name in ("calibrator", "thresholds", "metrics")},
        "adapter": {name: results["publish"][name] for name in ("adapter_id", "uri")},
        "gate": results["compare"]["gate"],
        "lines": results["compare"]["lines"],
        "champion_problem": results["compare"]["problem"],
        "shadow": results["compare"]["shadow"],
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }
