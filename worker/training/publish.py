"""From the first stage to the last word: all stages in order, the report, and the pointer.

Stages publish and promote: a whole adapter folder, then its row, then the pointer.

A folder appears under its name when it is whole, and a row when its folder is there: no half adapter is ever visible.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from models.adapters.calibration import Calibrator, Thresholds
from models.adapters.card import Canary, read_adapter, read_card, write_adapter
from scanfleet.db.engine import transaction
from scanfleet.db.tables import Adapter
from scanfleet.db.training import champions, trainings
from scanfleet.db.training.adapters import AdapterInfo, register_adapter
from scanfleet.errors import AccessDenied, BadSource, DeviceUnavailable, SourceNotFound, StoreUnavailable
from scanfleet.storage import adapter_files
from worker.evaluation.canary import FOLDER as CANARIES
from worker.scoring.adapters import info_of
from worker.training.context import Context, Stage, run_stages
from worker.training.fit import ADAPTER
from worker.training.workspace import REPORT

WHOLE = "whole"


class ChampionMoved(Exception):
    """Another adapter is in use than the one that was compared with."""


def publish(context: Context) -> dict[str, Any]:
    """Put the adapter where workers find it, and into the registry, not yet judged."""
    folder = _put_in_place(context, _assemble(context))
    card = read_card(folder)
    uri = str(folder)
    if context.settings.adapters_url is not None:
        uri = _push(context, folder)
    info = info_of(card, context.check, uri=uri, training_id=context.held.id)
    return {"adapter_id": register(context, info), "folder": str(folder), "uri": uri}


def register(context: Context, info: AdapterInfo) -> int:
    """Enter an adapter whose folder is whole. Raises LeaseLost."""
    with transaction(context.engine) as connection:
        trainings.require_held(connection, context.held)
        return register_adapter(connection, info)


def _assemble(context: Context) -> Path:
    """The adapter folder with all that belongs to it, in the work folder."""
    made = read_adapter(context.work.path / ADAPTER)
    read = context.results["calibrate"]
    card = made.card.model_copy(
        update={
            "calibrator": None if read["calibrator"] is None else Calibrator(**read["calibrator"]),
            "thresholds": None if read["thresholds"] is None else Thresholds(**read["thresholds"]),
            "metrics": read["metrics"],
            "canary": Canary.model_validate_json(json.dumps(context.results["canary"]["canary"])),
        }
    )
    whole = context.work.path / WHOLE
    if whole.exists():
        shutil.rmtree(whole)
    shutil.copytree(context.work.path / CANARIES, whole / CANARIES)
    write_adapter(whole, card=card, lora=made.lora, weights=made.weights, head=made.head)
    return whole


def _put_in_place(context: Context, whole: Path) -> Path:
    """data_dir/adapters/<digest>. The same weights that lie there already stay as they are, card and all."""
    folder = context.settings.make_folder("adapters") / read_card(whole).weights_sha256
    try:
        adapter_files.pull(str(whole), folder, context.settings, digest=folder.name)
    except BadSource:  # what lies there was damaged
        shutil.rmtree(folder)
        adapter_files.pull(str(whole), folder, context.settings, digest=folder.name)
    return folder


def _push(context: Context, folder: Path) -> str:
    """To the place that all workers reach. What a person must mend there does not cost the training: it waits."""
    try:
        return adapter_files.push(folder, adapter_files.shared_place(context.settings), context.settings)
    except (AccessDenied, BadSource, SourceNotFound) as error:
        raise StoreUnavailable(f"adapters_url: {error}") from error


def promote(context: Context, report: dict[str, Any]) -> None:
    """End the training, note what the gate said, and point to the adapter if it said so: one transaction.

    Raises LeaseLost, and ChampionMoved where the adapter was compared with one that is no longer in use.
    """
    compared, adapter_id = context.results["compare"], context.results["publish"]["adapter_id"]
    verdict, held = compared["gate"]["verdict"], context.held
    with transaction(context.engine) as connection:
        trainings.settle(
            connection,
            held,
            report=report,
            verdict=verdict,
            adapter_id=adapter_id,
            champion_id=compared["champion_id"],
        )
        _require(compared["champion_id"], champions.champion(connection, held.check_name, held.base_model))
        if adapter_id == compared["champion_id"]:
            return  # the same weights again: what was said of them stands
        judged = {"gate": compared["gate"], "gate_verdict": verdict}
        connection.execute(sa.update(Adapter).where(Adapter.id == adapter_id).values(judged))
        if verdict == "promote":
            why = f"training {held.id}: {compared['gate']['reason']}"
            # Asked again of the pointer, which this holds: somebody else may have moved it a moment ago.
            _require(compared["champion_id"], champions.promote(connection, adapter_id, kind="gate", why=why))


def _require(compared: int | None, in_use: AdapterInfo | None) -> None:
    if (None if in_use is None else in_use.id) != compared:
        raise ChampionMoved


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
