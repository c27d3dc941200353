"""Stages snapshot and images: the labels of this training, and their image files on the local disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from scanfleet.db.engine import reading
from scanfleet.db.labels.labels import CurrentLabel, iter_current_labels
from scanfleet.db.tables.training import SPLITS
from scanfleet.errors import TrainingFailed
from scanfleet.models.training.data.types import Example
from scanfleet.models.types import Question
from scanfleet.worker.evaluation.held_out import is_shared
from scanfleet.worker.evaluation.images import Labelled, example_of, materialise
from scanfleet.worker.training.context import Context

EXAMPLES, IMAGES = "examples.json", "images"
USED_SPLITS = SPLITS[:-1]
# Images of each side of the question, flagging labels and others. With fewer in train nothing is learnt, and with fewer
# in the other splits nothing can be measured; real trainings take hundreds. Calibration and threshold serve the same
# purposes together (`worker.evaluation.calibrate`): with few clusters one of them may be empty.
MIN_IMAGES = {("train",): 8, ("calibration", "threshold"): 4, ("golden",): 2}
VALIDATION_SHARE = 0.15  # of the clusters of the train split


def snapshot(context: Context) -> dict[str, Any]:
    """Store the current labels, up to the newest one of this training. Raises TrainingFailed for too few."""
    training, question = context.training, context.question
    labels = list(iter_current_labels(context.engine, training.check_name, up_to=training.newest_label))
    rows = [record_of(each) for each in labels if each.split in USED_SPLITS]
    require_enough(question, ((row["split"], row["label"]) for row in rows))
    context.work.write(EXAMPLES, rows)
    with reading(context.engine) as connection:
        shared = is_shared(connection, training.check_name, sum(row["split"] == "golden" for row in rows))
    return {"labels": count_by_split(rows), "unused": len(labels) - len(rows), "shared": shared}


def images(context: Context) -> dict[str, Any]:
    """Fetch the images. Raises Retryable while a store is unavailable; TrainingFailed if too many are missing."""
    rows = context.work.read(EXAMPLES)
    labels, folder = labelled_of(rows), context.work.path / IMAGES
    examples, left_out = materialise(context.settings, labels, folder, context.question, watch=context.progress.count)
    present = {example.key for example in examples}
    found = [row for row in rows if row["content_sha256"] in present]
    kept = with_few_generated(found, share=context.settings.train_synthetic_share)
    if len(kept) < len(found):
        left_out |= {"generated": len(found) - len(kept)}
    require_enough(context.question, ((row["split"], row["label"]) for row in kept), left_out=left_out)
    return {
        "kept": sorted(row["content_sha256"] for row in kept),
        "left_out": left_out,
        "labels": count_by_split(kept),
        "generated": sum(is_generated(row) for row in kept),
    }


def is_generated(row: dict[str, Any]) -> bool:
    """Whether the image was generated. A training that an earlier release began has none."""
    return bool(row.get("synthetic", False))


def with_few_generated(rows: Sequence[dict[str, Any]], *, share: float) -> list[dict[str, Any]]:
    """Leave out generated images until they are at most this share of what is learnt from.

    They stop no training early: those among the held-out clusters are left out as well. The others are taken in the
    order of their hashes, label by label in turn, so that no label loses more than another, and a training with more
    labels has those of one with fewer.
    """
    learnt = [row for row in rows if row["split"] == "train" and not _is_held_out(row["cluster"])]
    n_real = sum(not is_generated(row) for row in learnt)
    generated = sorted((row for row in learnt if is_generated(row)), key=lambda row: row["content_sha256"])
    turns: Counter[str] = Counter()
    ranked = []
    for row in generated:
        ranked.append((turns[row["label"]], row["label"], row["content_sha256"]))
        turns[row["label"]] += 1
    most = int(n_real * share / (1 - share) + 1e-9)
    taken = {sha for _, _, sha in sorted(ranked)[:most]}
    return [row for row in rows if not is_generated(row) or row["content_sha256"] in taken]


def is_shared_here(context: Context) -> bool:
    """Whether the held-out images serve all purposes. Not in a training that an earlier release began."""
    return bool(context.results["snapshot"].get("shared", False))


def examples_of(context: Context, *splits: str) -> list[Example]:
    """The examples of these splits, ordered by hash; the same ones in every attempt."""
    present = set(context.results["images"]["kept"])
    rows = [row for row in context.work.read(EXAMPLES) if row["split"] in splits and row["content_sha256"] in present]
    folder = context.work.path / IMAGES
    return [example_of(each, folder, context.question, context.settings) for each in labelled_of(rows)]


def labelled_of(rows: Iterable[dict[str, Any]]) -> list[Labelled]:
    """The rows of EXAMPLES as labels. Those of a training that an earlier version began lack newer fields."""
    return [Labelled(**{name: row[name] for name in Labelled.__dataclass_fields__ if name in row}) for row in rows]


def with_validation(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(training, validation): whole clusters, chosen by hash, so that an image keeps its part as labels grow."""
    by_hash = sorted({example.cluster for example in examples}, key=_position)
    held_out = {cluster for cluster in by_hash if _is_held_out(cluster)} or set(by_hash[:1])
    learn = [example for example in examples if example.cluster not in held_out]
    return learn, [example for example in examples if example.cluster in held_out]


def _is_held_out(cluster: str) -> bool:
    return _position(cluster) < VALIDATION_SHARE


def _position(cluster: str) -> float:
    """0 to 1. Salted, because the splits are chosen from the same names."""
    return int.from_bytes(hashlib.sha256(f"validation {cluster}".encode()).digest()[:8]) / 2**64


def record_of(each: CurrentLabel) -> dict[str, Any]:
    """The fields of a label that a training needs, as JSON."""
    names = (*Labelled.__dataclass_fields__, "split", "synthetic")
    return {name: getattr(each, name) for name in names} | {"at": each.at.isoformat()}


def require_enough(
    question: Question, pairs: Iterable[tuple[str, str]], *, left_out: dict[str, int] | None = None
) -> None:
    """pairs: (split, label). Raises TrainingFailed with the numbers that are missing."""
    counts = Counter(pairs)
    missing = []
    for splits, minimum in MIN_IMAGES.items():
        for side in _sides(question):
            n = sum(counts[split, label] for split in splits for label in side)
            if n < minimum:
                verb = "have" if len(splits) > 1 else "has"
                need = "need" if len(splits) > 1 else "needs"
                missing.append(f"{' and '.join(splits)} {verb} {n} of {' or '.join(side)} and {need} {minimum}")
    if missing:
        missing_images = "" if not left_out else f" ({sum(left_out.values())} left out: {_listed(left_out)})"
        raise TrainingFailed(f"too few labelled images of check {question.name}{missing_images}: {'; '.join(missing)}")


def _sides(question: Question) -> list[tuple[str, ...]]:
    """The flagging labels and the others; one side if there are no flagging labels."""
    flagging = tuple(label for label in question.labels if label in question.flags)
    others = tuple(label for label in question.labels if label not in question.flags)
    return [flagging, others] if flagging else [others]


def count_by_split(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """split -> label -> images."""
    counts = Counter((row["split"], row["label"]) for row in rows)
    return {
        split: {label: n for (own, label), n in sorted(counts.items()) if own == split}
        for split in USED_SPLITS
        if any(own == split for own, _ in counts)
    }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in counts.items())
