"""Answers as other programs have them: COCO for the boxes, and the responses of Amazon Rekognition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import IO, Any

import sqlalchemy as sa

from scanfleet.checks.check import Check
from scanfleet.db.engine import reading
from scanfleet.db.results.results import Result
from scanfleet.db.scans.checks import get_check
from scanfleet.db.scans.scans import get_scan
from scanfleet.producer.reports.coco import CocoFile
from scanfleet.producer.reports.exports.columns import dumps
from scanfleet.storage.s3.uri import is_s3, split_s3

CheckOf = Callable[[str], Check]  # by the id of a scan


def checks_of(engine: sa.Engine) -> CheckOf:
    @cache
    def check_of(scan: str) -> Check:
        with reading(engine) as connection:
            return get_check(connection, get_scan(connection, scan).check_id)

    return check_of


def write_coco(results: Iterable[Result], file: IO[bytes], check_of: CheckOf) -> int:
    """Write the images with an answer and their boxes. Categories: the labels of their checks, and of boxes."""
    coco = CocoFile(file)
    for result in results:
        if result.state == "verdict" and result.width is not None and result.height is not None:
            coco.add_labels(check_of(result.scan).labels)
            coco.add(result.image_id, _coco_image(result), result.boxes or ())
    coco.close()
    return coco.n_images


def _coco_image(result: Result) -> dict[str, Any]:
    named = {"file_name": result.uri, "width": result.width, "height": result.height}
    said = ("scan", "check", "label", "decision", "score", "content_sha256")
    return named | {name: getattr(result, name) for name in said if getattr(result, name) is not None}


def write_rekognition(results: Iterable[Result], file: IO[bytes], check_of: CheckOf) -> int:
    """Write a line for each image with an answer or a failure, as DetectModerationLabels and DetectCustomLabels respond
    (docs.aws.amazon.com/rekognition/latest/APIReference).
    """
    n = 0
    for result in results:
        if result.state in ("verdict", "failed"):
            file.write(f"{dumps(_response(result, check_of))}\n".encode())
            n += 1
    return n


def _response(result: Result, check_of: CheckOf) -> dict[str, Any]:
    image: dict[str, Any] = {"Uri": result.uri}
    if is_s3(result.uri):
        bucket, key = split_s3(result.uri)
        image["S3Object"] = {"Bucket": bucket, "Name": key}
    if result.failure is not None:
        return {"Image": image, "Error": {"Code": result.failure.reason, "Message": result.failure.detail}}
    scorer, flags = result.scorer, check_of(result.scan).flags
    of_flag = _confidence(result) if flags else None
    of_label = of_flag if of_flag is None or result.label in flags else 100 - of_flag
    return {
        "Image": image,
        "ModerationLabels": list(_moderation(result, flags, of_flag)),
        "ModerationModelVersion": "" if scorer is None else scorer.adapter or f"{scorer.base_model} {scorer.revision}",
        "CustomLabels": [
            _with_confidence({"Name": result.label}, of_label),
            *(_custom(box, result, of_flag) for box in result.boxes or ()),
        ],
        "Decision": result.decision,
        "Calibrated": result.calibrated,
    }


def _moderation(result: Result, flags: Sequence[str], confidence: float | None) -> Iterator[dict[str, Any]]:
    """Yield nothing for a clear image; else the check at the top level, and below it the label if that flags."""
    if result.decision == "clear":
        return
    yield _with_confidence({"Name": result.check, "ParentName": "", "TaxonomyLevel": 1}, confidence)
    if result.label in flags:
        yield _with_confidence({"Name": result.label, "ParentName": result.check, "TaxonomyLevel": 2}, confidence)


def _with_confidence(label: dict[str, Any], confidence: float | None) -> dict[str, Any]:
    """A check without flags has none: its margin is about nothing."""
    return label if confidence is None else label | {"Confidence": confidence}


def _confidence(result: Result) -> float:
    """Return the probability of a flag in percent; without a calibrated score, the model's own."""
    if result.score is not None:
        return 100 * result.score
    assert result.margin is not None  # every answer has one
    return 50 * (1 + math.tanh(result.margin / 2))  # the logistic function, which does not overflow so


def _custom(box: dict[str, Any], result: Result, confidence: float | None) -> dict[str, Any]:
    width, height = result.width or 1, result.height or 1
    sides = {
        "Left": box["x0"] / width,
        "Top": box["y0"] / height,
        "Width": (box["x1"] - box["x0"]) / width,
        "Height": (box["y1"] - box["y0"]) / height,
    }
    score = box.get("score")
    named = _with_confidence({"Name": box["label"]}, confidence if score is None else 100 * score)
    return named | {"Geometry": {"BoundingBox": sides}}
