"""The built-in overlay adapter on photographs that it never saw, against cheap features with 400 labels.

`BENCH_PHOTOGRAPHS` names the folder that `python -m tools.pocket.photographs.packages --out DIR` fills: pictures are
crops of its `development` photographs, the baselines' 400 labels crops of its `train` ones. Three ways of lettering:
`wide`, with which the adapter was trained; `family`, the generated pictures' own; `plain`, a few lines of Pillow as
anybody would write them, which training never drew. `BENCH_ADAPTERS` names the folder of other adapters than the
shipped ones. The generated accuracies are those of docs/pocket.md, on `BENCH_SHARE` of its pictures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.pocket import fresh, measure
from bench.report import Report, Skipped
from scanfleet.models import factory
from scanfleet.models.network.base import BaseModel, load_base
from scanfleet.models.pocket import folder
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.pocket.recipe import load_recipe
from scanfleet.models.pocket.scenes import overlay
from scanfleet.models.pocket.scenes.fonts import FACES, font, phrase
from scanfleet.models.pocket.scenes.scene import dice
from scanfleet.models.scoring.prefill import PrefillScorer
from tools.pocket.photographs import pictures

SIDE = 224  # pixels
N_LABELS, N_TEST = 400, 600
SEED, RESAMPLES = 9_510_000, 1000
Floats = NDArray[np.float64]
Picture = tuple[Image.Image, bool]  # and whether text lies over it


def run() -> Report:
    given = os.environ.get("BENCH_PHOTOGRAPHS")
    if given is None:
        raise Skipped(
            "BENCH_PHOTOGRAPHS names no folder: fill one with python -m tools.pocket.photographs.packages --out DIR"
        )
    labelled, unseen = _set(Path(given), "train", N_LABELS), _set(Path(given), "development", N_TEST)
    truth = np.array([over for _, over in unseen])
    base, adapters = load_base(str(folder())), Path(os.environ.get("BENCH_ADAPTERS", folder() / "adapters"))
    scorer = factory.scorer(base, QUESTIONS["overlay"], adapters / "overlay")
    margins = _margins(scorer, [image for image, _ in unseen])
    figures: dict[str, Any] = {"photographs_auroc": _auroc(truth, margins)}
    for number, way in enumerate(WAYS):
        figures[f"photographs_auroc_{way}"] = _auroc(truth[number :: len(WAYS)], margins[number :: len(WAYS)])
    for name, scores in _baselines(labelled, unseen).items():
        figures[f"{name}_auroc"] = _auroc(truth, scores)
        figures[f"photographs_auroc_minus_{name}"] = _auroc(truth, margins, scores)
    return Report(name="photographs", figures=figures | _generated(base, adapters))


def _margins(scorer: PrefillScorer, images: list[Image.Image], at_once: int = 16) -> Floats:
    batches = (images[at : at + at_once] for at in range(0, len(images), at_once))
    return np.array([each.margin for batch in batches for each in scorer.score([scorer.prepare(i) for i in batch])])


def _set(place: Path, split: str, n: int) -> list[Picture]:
    ways = tuple(WAYS.values())
    return [ways[index % len(ways)](place, split, index // len(ways)) for index in range(n)]


def _wide(place: Path, split: str, index: int) -> Picture:
    scene = pictures.draw(place, split, SEED, index, SIDE, SIDE)
    return scene.image, scene.label == "overlay"


def _family(place: Path, split: str, index: int) -> Picture:
    rng = dice(SEED, "family-" + split, index)
    image = pictures.crop(rng, rng.choice(pictures.of_split(place, split)), SIDE, SIDE)
    kind = ("overlay", "natural", "overlay", "none")[index % 4]
    if kind == "natural":
        overlay.write_in_scene(rng, image)
        image = overlay.share_light(rng, image)
    if kind == "overlay":
        overlay.lay_over(rng, image)
    return image, kind == "overlay"


def _plain(place: Path, split: str, index: int) -> Picture:
    rng = dice(SEED, "plain-" + split, index)
    image = pictures.crop(rng, rng.choice(pictures.of_split(place, split)), SIDE, SIDE)
    if index % 2:
        image = _lettered(rng, image)
    elif rng.random() < 0.3:
        overlay.write_in_scene(rng, image)
        image = overlay.share_light(rng, image)
    return pictures.saved(rng, image), index % 2 == 1


def _lettered(rng: random.Random, image: Image.Image) -> Image.Image:
    """Text of one face at a random place: solid, on a box, transparent, or tiled."""
    layer = Image.new("RGBA", image.size)
    pen, text, kind = ImageDraw.Draw(layer), phrase(rng, 3), rng.choice(("solid", "box", "clear", "tiled"))
    size, face = int(SIDE * rng.choice((0.05, 0.07, 0.1, 0.14, 0.2, 0.3))), rng.choice(FACES)
    while pen.textlength(text, font=font(face, size)) > SIDE and size > 9:
        size = int(size * 0.8)
    letters = font(face, size)
    width, height = pen.textbbox((0, 0), text, font=letters)[2:]
    fill = (
        *rng.choice(((255, 255, 255), (0, 0, 0), (255, 0, 0), (255, 255, 0))),
        255 if kind in ("solid", "box") else rng.randint(80, 200),
    )
    x, y = rng.uniform(0, max(1.0, SIDE - width)), rng.uniform(0, max(1.0, SIDE - height))
    if kind == "box":
        pen.rectangle(
            (x - 3, y - 3, x + width + 3, y + height + 3),
            fill=rng.choice(((0, 0, 0, 255), (255, 255, 255, 160), (200, 0, 0, 255))),
        )
    across, down = (
        (range(0, SIDE, int(width * 1.4) + 1), range(0, SIDE, int(size * 2.5)))
        if kind == "tiled"
        else ((int(x),), (int(y),))
    )
    for top in down:
        for left in across:
            pen.text((left, top), text, font=letters, fill=fill)
    if kind == "tiled":
        layer = layer.rotate(rng.choice((0, 30, 45)))
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


WAYS: dict[str, Callable[[Path, str, int], Picture]] = {"wide": _wide, "family": _family, "plain": _plain}


def _auroc(truth: NDArray[np.bool_], scores: Floats, other: Floats | None = None) -> dict[str, float]:
    """Return an AUROC, or its difference from that of `other`, with its 95 % interval over resampled pictures."""
    rng, values = np.random.default_rng(SEED), []
    for rows in (np.arange(len(truth)), *rng.integers(0, len(truth), (RESAMPLES, len(truth)))):
        value = roc_auc_score(truth[rows], scores[rows])
        values.append(value - (roc_auc_score(truth[rows], other[rows]) if other is not None else 0.0))
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def hog(image: Image.Image, cell: int = 16, bins: int = 9) -> Floats:
    """Return histograms of oriented gradients, each 2 x 2 cells normalised together (Dalal and Triggs, 2005)."""
    grey = np.asarray(image.convert("L"), np.float64)
    down, across = np.gradient(grey)
    turn = (np.arctan2(down, across) % np.pi / np.pi * bins).astype(int) % bins
    planes = np.hypot(down, across)[..., None] * (turn[..., None] == np.arange(bins))
    rows, columns = grey.shape[0] // cell, grey.shape[1] // cell
    cells = planes[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell, bins).mean((1, 3))
    blocks = np.concatenate([cells[y : rows - 1 + y, x : columns - 1 + x] for y in (0, 1) for x in (0, 1)], -1)
    normed: Floats = blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 1.0)
    return normed.ravel()


def _baselines(labelled: list[Picture], unseen: list[Picture]) -> dict[str, Floats]:
    truth = [over for _, over in labelled]
    learn, test = (np.stack([hog(image) for image, _ in part]) for part in (labelled, unseen))
    models = {
        "hog_forest": RandomForestClassifier(500, random_state=0),
        "hog_logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)),
    }
    return {name: model.fit(learn, truth).predict_proba(test)[:, 1] for name, model in models.items()}


def _generated(base: BaseModel, adapters: Path) -> dict[str, Any]:
    part, share = load_recipe()["evaluation"], float(os.environ.get("BENCH_SHARE", "1"))
    pools = [(w, h, int(count * share)) for w, h, count in part["pools"]]
    found = {}
    for check, name, figure in (("overlay", "overlay", "accuracy"), ("baggage", "threat", "flag_accuracy")):
        scorer = factory.scorer(base, QUESTIONS[check], adapters / check)
        summary = measure(scorer, fresh(check, part["seeds"][check], pools)).summary()
        found[f"generated_{name}_accuracy"] = {key: summary[figure][key] for key in ("value", "low", "high")}
    return found
