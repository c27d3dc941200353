"""What requests are answered with: the record of an export, with its caveats."""

from __future__ import annotations

from typing import Any

from scanfleet.config.settings import Settings
from scanfleet.db.results.results import Result
from scanfleet.producer.reports.caveats import caveats
from scanfleet.producer.reports.export import as_record
from scanfleet.serve.uploads import shown
from scanfleet.stats.counts import MASS_FLOOR


def record_of(result: Result, settings: Settings) -> dict[str, Any]:
    """Return a result as JSON values: the fields of `scanfleet results export`, and why not to rely on it."""
    return as_record(result) | {"uri": shown(result.uri, settings), "caveats": caveats_of(result)}


def caveats_of(result: Result) -> list[str]:
    """Return why not to rely on an answer, as everywhere that shows one."""
    if result.scorer is None:
        return []
    return list(
        caveats(
            base_model=result.scorer.base_model,
            adapter=result.scorer.adapter,
            calibrated=result.calibrated,
            n_images=1,
            n_low_mass=int(result.mass is not None and result.mass < MASS_FLOOR),
            n_doubted=int(result.doubted is not None),
        )
    )
