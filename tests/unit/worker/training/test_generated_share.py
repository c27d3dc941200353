"""Generated images are at most a share of what a training learns from, and are used for nothing else."""

from collections import Counter
from typing import Any

import pytest

from scanfleet.worker.training.snapshot import VALIDATION_SHARE, _position, is_generated, with_few_generated


def rows(
    n: int, *, synthetic: bool, split: str = "train", labels: tuple[str, ...] = ("overlay",)
) -> list[dict[str, Any]]:
    """Images in clusters of their own, whose clusters are not held out."""
    kind = "generated" if synthetic else "real"
    names = [name for name in (f"{kind}-{split}-{i}" for i in range(3 * n)) if _position(name) >= VALIDATION_SHARE]
    return [
        {
            "content_sha256": name, "cluster": name, "split": split, "synthetic": synthetic,
            "label": labels[i * len(labels) // n],
        }
        for i, name in enumerate(names[:n])
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.3, 30), (0.5, 70), (0.9, 100)])
def test_they_are_at_most_the_share(share: float, kept: int) -> None:
    found = with_few_generated(rows(70, synthetic=False) + rows(100, synthetic=True), share=share)
    assert sum(map(is_generated, found)) == kept
    assert len(found) - kept == 70


def test_no_label_loses_more_than_another() -> None:
    generated = rows(90, synthetic=True, labels=("none", "overlay", "natural"))
    kept = [row for row in with_few_generated(rows(70, synthetic=False) + generated, share=0.3) if is_generated(row)]
    assert Counter(row["label"] for row in kept) == {"none": 10, "overlay": 10, "natural": 10}


def test_more_real_images_keep_those_that_were_used() -> None:
    generated = rows(100, synthetic=True, labels=("none", "overlay"))
    few = with_few_generated(rows(70, synthetic=False) + generated, share=0.3)
    more = with_few_generated(rows(90, synthetic=False) + generated, share=0.3)
    assert {row["cluster"] for row in few} < {row["cluster"] for row in more}


@pytest.mark.parametrize("split", ["calibration", "threshold", "golden"])
def test_they_measure_nothing(split: str) -> None:
    real = rows(50, synthetic=False)
    assert with_few_generated(real + rows(5, synthetic=True, split=split), share=0.3) == real


def test_they_do_not_tell_when_to_stop() -> None:
    held_out = next(name for name in map(str, range(1000)) if _position(name) < VALIDATION_SHARE)
    one = rows(1, synthetic=True)[0] | {"cluster": held_out}
    assert with_few_generated([*rows(50, synthetic=False), one], share=0.3) == rows(50, synthetic=False)


def test_held_out_images_are_nothing_to_learn_from() -> None:
    """With a hundred of them and one to learn from, not even one generated image is within .3."""
    held_out = next(name for name in map(str, range(1000)) if _position(name) < VALIDATION_SHARE)
    real = [row | {"cluster": held_out} for row in rows(100, synthetic=False)] + rows(1, synthetic=False)
    assert with_few_generated(real + rows(5, synthetic=True), share=0.3) == real
