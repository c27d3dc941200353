"""`python -m scanfleet.worker.commands.score`: the child process of `scanfleet score`. It reads and writes JSON lines.

In, first line: {"check": {...}, "adapter": FOLDER or null}. Each further line is an image: {"uri", "root", "etag"}.
Out: {"kind": "ready", "scorer", "calibrated"}, a {"kind": "result", ...} for each image in its order, and
{"kind": "fault", "words", "exit_code"} if it ends early.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from scanfleet.checks.check import Check
from scanfleet.config.settings import Settings
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.errors import ImageError, Retryable
from scanfleet.models.types import ModelIdentity
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.commands.stream import Scored, score_stream, stages
from scanfleet.worker.device.probe import UNPROBED_TOKENS, budget_for
from scanfleet.worker.runtime.child_protocol import Reports, serve_request
from scanfleet.worker.scoring.factory import Resolved
from scanfleet.worker.scoring.model import Model, load_model

WORTH_A_PROBE = 64  # images; scoring fewer takes less time than a probe saves


def main() -> None:
    serve_request(_serve)


def _serve(settings: Settings, asked: dict[str, Any], lines: IO[str], reports: Reports) -> None:
    model = load_model(settings)
    adapter = asked["adapter"]
    resolved = resolve_alone(model, Check.model_validate(asked["check"]), None if adapter is None else Path(adapter))
    scorer = _scorer_record(resolved.scorer.identity, mode=resolved.mode)
    reports.send("ready", scorer=scorer, calibrated=resolved.policy.calibrator is not None)
    images = read_images(lines)
    budget, images = _budget(settings, model, images)
    with stages(settings, model, token_budget=budget) as parts:
        for scored in score_stream(images, resolved, parts):
            _report(scored, resolved, scorer, reports)


def _budget(settings: Settings, model: Model, images: Iterator[ClaimedImage]) -> tuple[int, Iterator[ClaimedImage]]:
    """Return the token budget, and all the images again."""
    if settings.token_budget != "auto":  # noqa: S105
        return settings.token_budget, images
    few = list(islice(images, WORTH_A_PROBE))
    budget = budget_for(settings, model) if len(few) == WORTH_A_PROBE else UNPROBED_TOKENS
    return budget, chain(few, images)


def read_images(lines: IO[str]) -> Iterator[ClaimedImage]:
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line)
        yield ClaimedImage(id=number, uri=entry["uri"], root=entry["root"], etag=entry["etag"], identity="")


def _report(scored: Scored, resolved: Resolved, scorer: dict[str, Any], reports: Reports) -> None:
    """Report the results of a chunk. Then raise Retryable if images are left over after a transient error."""
    chunk, outcome = scored
    verdicts = {verdict.image_id: verdict for verdict in outcome.verdicts}
    for image in chunk:
        if image.id in verdicts:
            calibrated = resolved.policy.calibrator is not None
            reports.send("result", **_verdict_record(image.uri, verdicts[image.id], scorer, calibrated=calibrated))
        elif image.id in outcome.failures:
            reports.send("result", **_failure_record(image.uri, outcome.failures[image.id]))
    n_waiting = len(chunk) - len(verdicts) - len(outcome.failures)
    if n_waiting:
        left = "1 image" if n_waiting == 1 else f"{n_waiting} images"
        raise Retryable(f"{left} and all later ones are not scored: {outcome.waiting_for}")


# The fields of `scanfleet results export` that need no database: every line has every key.
_ANSWER = ("label", "decision", "score", "margin", "mass", "boxes", "box_problems", "content_sha256", "width", "height")
_MORE = ("crop", "frames", "notes", "explanation", "explanation_problem")
_EMPTY: dict[str, Any] = dict.fromkeys((*_ANSWER, *_MORE, "calibrated", "scorer", "failure"))


def _verdict_record(uri: str, verdict: NewVerdict, scorer: dict[str, Any], *, calibrated: bool) -> dict[str, Any]:
    answer = {name: getattr(verdict, name) for name in _ANSWER} | {"box_problems": verdict.box_problems or None}
    answer["crop"] = verdict.crop and verdict.crop.record()
    answer["frames"] = verdict.frames and verdict.frames.record()
    answer["notes"] = list(verdict.notes) or None
    answer["explanation"] = verdict.explanation and verdict.explanation.text
    answer["explanation_problem"] = verdict.explanation and verdict.explanation.problem
    calibrated = calibrated and (verdict.frames is None or verdict.frames.calibrated)
    return {"uri": uri, "state": "verdict", **_EMPTY, **answer, "calibrated": calibrated, "scorer": scorer}


def _failure_record(uri: str, error: ImageError) -> dict[str, Any]:
    failure = {"stage": error.stage, "reason": error.reason, "detail": error.detail}
    return {"uri": uri, "state": "failed", **_EMPTY, "calibrated": False, "failure": failure}


def _scorer_record(identity: ModelIdentity, *, mode: str) -> dict[str, Any]:
    return {
        "base_model": identity.base_model,
        "revision": identity.revision,
        "precision": identity.precision,
        "adapter": identity.adapter_sha256,
        "mode": mode,
    }


if __name__ == "__main__":
    main()
