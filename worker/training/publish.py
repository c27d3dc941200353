"""Runs all stages, writes the report, and publishes and promotes the adapter.

The adapter folder appears under its name only when it is complete, its row only after the folder, and the champion
pointer changes last: no incomplete adapter is ever visible.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from scanfleet.db.engine import transaction
from scanfleet.db.tables import Adapter
from scanfleet.db.training import champions, trainings
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.errors import AccessDenied, BadSource, DeviceUnavailable, SourceNotFound, StoreUnavailable
from scanfleet.models.adapters.calibration import Calibrator, Thresholds
from scanfleet.models.adapters.card import Canary, read_adapter, read_card, write_adapter
from scanfleet.models.adapters.likeness import FILE as LIKENESS
from scanfleet.models.adapters.likeness import METRIC
from scanfleet.storage import adapter_files
from scanfleet.worker.evaluation.canary import FOLDER as CANARIES
from scanfleet.worker.scoring.adapters import info_of
from scanfleet.worker.training.context import Context, Stage, run_stages
from scanfleet.worker.training.fit import ADAPTER
from scanfleet.worker.training.workspace import REPORT

WHOLE = "whole"


class ChampionMoved(Exception):
    """The champion has changed since the comparison."""


def publish(context: Context) -> dict[str, Any]:
    """Store the adapter where workers find it, and register it without a verdict."""
    folder = _install(context, _assemble(context))
    card = read_card(folder)
    uri = str(folder)
    if context.settings.adapters_url is not None:
        uri = _push(context, folder)
    info = info_of(card, context.check, uri=uri, training_id=context.training.id)
    return {"adapter_id": register(context, info), "folder": str(folder), "uri": uri}


def register(context: Context, info: AdapterInfo) -> int:
    """Register an adapter whose folder is complete. Raises LeaseLost."""
    with transaction(context.engine) as connection:
        trainings.require_held(connection, context.training)
        return register_adapter(connection, info)


def _assemble(context: Context) -> Path:
    """Build the complete adapter folder in the work folder."""
    made = read_adapter(context.work.path / ADAPTER)
    calibration = context.results["calibrate"]
    card = made.card.model_copy(
        update={
            "calibrator": None if calibration["calibrator"] is None else Calibrator(**calibration["calibrator"]),
            "thresholds": None if calibration["thresholds"] is None else Thresholds(**calibration["thresholds"]),
            "metrics": calibration["metrics"],
            "canary": Canary.model_validate_json(json.dumps(context.results["canary"]["canary"])),
        }
    )
    whole = context.work.path / WHOLE
    if whole.exists():
        shutil.rmtree(whole)
    shutil.copytree(context.work.path / CANARIES, whole / CANARIES)
    if METRIC in card.metrics:
        shutil.copyfile(context.work.path / LIKENESS, whole / LIKENESS)
    write_adapter(whole, card=card, lora=made.lora, weights=made.weights, head=made.head)
    return whole


def _install(context: Context, whole: Path) -> Path:
    """Copy to data_dir/adapters/<digest>. A folder with the same weights stays as it is, including its card."""
    folder = context.settings.make_folder("adapters") / read_card(whole).weights_sha256
    try:
        adapter_files.pull(str(whole), folder, context.settings, digest=folder.name)
    except BadSource:  # the folder there is damaged
        shutil.rmtree(folder)
        adapter_files.pull(str(whole), folder, context.settings, digest=folder.name)
    return folder


def _push(context: Context, folder: Path) -> str:
    """Upload to the location that all workers share. Errors that an operator has to fix make the training wait."""
    try:
        return adapter_files.push(folder, adapter_files.shared_place(context.settings), context.settings)
    except (AccessDenied, BadSource, SourceNotFound) as error:
        raise StoreUnavailable(f"adapters_url: {error}") from error


def promote(context: Context, report: dict[str, Any]) -> None:
    """Settle the training, store the gate's verdict, and promote the adapter if it passed: one transaction.

    Raises LeaseLost, and ChampionMoved if the champion has changed since the comparison.
    """
    compared, adapter_id = context.results["compare"], context.results["publish"]["adapter_id"]
    verdict, training = compared["gate"]["verdict"], context.training
    with transaction(context.engine) as connection:
        trainings.settle(
            connection,
            training,
            report=report,
            verdict=verdict,
            adapter_id=adapter_id,
            champion_id=compared["champion_id"],
        )
        _require(compared["champion_id"], champions.champion(connection, training.check_name, training.base_model))
        if adapter_id == compared["champion_id"]:
            return  # the same weights: their verdict stays
        judged = {"gate": compared["gate"], "gate_verdict": verdict}
        connection.execute(sa.update(Adapter).where(Adapter.id == adapter_id).values(judged))
        if verdict == "promote":
            why = f"training {training.id}: {compared['gate']['reason']}"
            # Check the returned champion too, under the lock of the pointer: it may have changed a moment ago.
            _require(compared["champion_id"], champions.promote(connection, adapter_id, kind="gate", why=why))


def _require(compared: int | None, in_use: AdapterInfo | None) -> None:
    if (None if in_use is None else in_use.id) != compared:
        raise ChampionMoved


MAX_COMPARISONS = 3  # each time the champion was replaced meanwhile


def finish(context: Context, stages: tuple[tuple[str, Stage], ...]) -> str:
    """Run the remaining stages and promote. Returns the gate's verdict."""
    for _ in range(MAX_COMPARISONS):
        run_stages(context, stages)
        context.progress.begin("promote", len(stages))
        report = report_of(context)
        context.work.write(REPORT, report)
        try:
            promote(context, report)
        except ChampionMoved:
            context.work.forget("compare")
            continue
        verdict: str = report["gate"]["verdict"]
        return verdict
    raise DeviceUnavailable(f"the champion changed during each of {MAX_COMPARISONS} comparisons")


def report_of(context: Context) -> dict[str, Any]:
    """The figures of all stages."""
    results, training = context.results, context.training
    trained = {name: value for name, value in results["fit"].items() if name != "seconds"}
    return {
        "check": training.check_name,
        "base_model": training.base_model,
        "reason": training.reason,
        "seed": training.seed,
        "newest_label": training.newest_label,
        "labels": results["images"]["labels"],
        "left_out": results["images"]["left_out"],
        "generated": results["images"].get("generated", 0),
        "fit": trained,
        "calibration": {name: results["calibrate"][name] for name in ("calibrator", "thresholds", "metrics")},
        "adapter": {name: results["publish"][name] for name in ("adapter_id", "uri")},
        "gate": results["compare"]["gate"],
        "lines": results["compare"]["lines"],
        "champion_problem": results["compare"]["problem"],
        "shadow": results["compare"]["shadow"],
        "seconds": {name: result["seconds"] for name, result in results.items()},
    }


def report_of_failure(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of the stages that a failed training finished, for `train show`."""
    images, fitted = results.get("images", {}), results.get("fit", {})
    report: dict[str, Any] = {name: images[name] for name in ("labels", "left_out") if name in images}
    if fitted:
        report["fit"] = {name: value for name, value in fitted.items() if name != "seconds"}
    if "canary" in results:
        report["canary"] = results["canary"]
    metrics = results.get("calibrate", {}).get("metrics")
    if metrics is not None:
        report["calibration"] = {"metrics": metrics}
    return report | {"seconds": {name: result["seconds"] for name, result in results.items() if "seconds" in result}}
