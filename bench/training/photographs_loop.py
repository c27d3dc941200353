"""The whole loop on photographs: 400 labels from a CSV, one training without a flag, and 200 unseen pictures.

Crops of photographs with the generated family's own lettering: a half overlays, a quarter text of the scene, a quarter
none. Groups are the photographs, so that no split shares one. `BENCH_PHOTOGRAPHS` names a folder with `train`
and `test`, photographs without text; the test ones are of other places. Everything goes through the command line.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from bench.report import Report
from scanfleet.models.adapters.metrics import wilson
from scanfleet.models.pocket.scenes import overlay
from scanfleet.models.pocket.scenes.scene import dice

FOLDER = "BENCH_PHOTOGRAPHS"
KINDS = ("overlay", "natural", "overlay", "none")
SIDE = 224  # pixels
N_LABELS, N_TEST = 400, 200
SEED = 9_500_000
PROGRAM = str(Path(sys.executable).with_name("scanfleet"))

Answers = dict[str, dict[str, Any]]  # by file name


def run() -> Report:
    given = os.environ.get(FOLDER)
    if given is None:
        raise SystemExit(f"photographs-loop: set {FOLDER} to a folder with train/ and test/, photographs without text")
    with tempfile.TemporaryDirectory() as place:
        learnt = _archive(Path(given) / "train", Path(place) / "labelled", N_LABELS)
        unseen = _archive(Path(given) / "test", Path(place) / "unseen", N_TEST)
        cli = _Cli(Path(place))
        with cli.worker("score"), cli.worker("train"):
            scan = cli("scan", str(unseen), "--check", "overlay", "--wait").splitlines()[0].strip()
            before = cli.answers(scan)
            cli("labels", "import", str(learnt), "--check", "overlay", "--label-column", "truth", "--yes")
            cli("train", "start", "--check", "overlay", "--wait", accepted=(0, 24))
            training = json.loads(cli("train", "ls", "--check", "overlay", "--format", "json"))[0]
            cli("rescan", scan, "--all", "--wait", accepted=(0, 2))
            after = cli.answers(scan)
            adapters = json.loads(cli("adapters", "ls", "--check", "overlay", "--format", "json"))
        made = [each for each in adapters if each.get("training_id") == training["id"]]
        asked = ("score", str(unseen.parent), "--check", "overlay", "--jsonl", "--adapter")
        challenger = [_by_name(cli(*asked, str(each["uri"]), accepted=(0, 20, 21, 22))) for each in made]
        truth = {row["uri"]: row["truth"] for row in _rows(unseen)}
    figures = {"before": _figures(before, truth), "after": _figures(after, truth)}
    if challenger:
        figures["challenger"] = _figures(challenger[0], truth)
    return Report(name="photographs-loop", figures=figures, notes=(f"training: {json.dumps(training, default=str)}",))


class _Cli:
    """Runs commands on a data folder of its own."""

    def __init__(self, place: Path) -> None:
        self._environment = os.environ | {"SCANFLEET_DATA_DIR": str(place / "data"), "SCANFLEET_LOG_LEVEL": "warning"}
        self._environment["SCANFLEET_TRAIN_AFTER_LABELS"] = "1000000"  # a person starts the training

    def __call__(self, *arguments: str, accepted: Sequence[int] = (0,)) -> str:
        done = subprocess.run(
            [PROGRAM, *arguments], env=self._environment, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode not in accepted:
            raise SystemExit(f"photographs-loop: scanfleet {' '.join(arguments)} ended with {done.returncode}")
        return done.stdout

    @contextmanager
    def worker(self, kind: str) -> Iterator[None]:
        process = subprocess.Popen(
            [PROGRAM, "worker", kind], env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)

    def answers(self, scan: str) -> Answers:
        return _by_name(self("results", "export", "--scan", scan, "--format", "jsonl"))


def _archive(photographs: Path, out: Path, n: int) -> Path:
    """Write n pictures and their manifest, whose path is returned."""
    out.mkdir()
    paths = sorted(path for path in photographs.iterdir() if path.is_file())
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(("uri", "truth", "group"))
        for index in range(n):
            path, kind = paths[index % len(paths)], KINDS[index // len(paths) % len(KINDS)]
            name = f"{index:04}.png"
            _picture(dice(SEED, photographs.name, index), path, kind).save(out / name)
            rows.writerow((name, kind, path.stem))
    return out / "manifest.csv"


def _picture(rng: random.Random, path: Path, kind: str) -> Image.Image:
    image = _crop(rng, path)
    if kind == "natural":
        overlay.write_in_scene(rng, image)
        image = overlay.share_light(rng, image)
    if kind == "overlay":
        overlay.lay_over(rng, image)
    return image


def _crop(rng: random.Random, path: Path) -> Image.Image:
    with Image.open(path) as photograph:
        whole = photograph.convert("RGB")
    side = int(min(whole.size) * rng.uniform(0.45, 1.0))
    x, y = rng.randint(0, whole.width - side), rng.randint(0, whole.height - side)
    return whole.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _by_name(lines: str) -> Answers:
    answers = map(json.loads, lines.splitlines())
    return {Path(answer["uri"]).name: answer for answer in answers if answer.get("label")}


def _figures(answers: Answers, truth: dict[str, str]) -> dict[str, Any]:
    names = sorted(truth)
    said, right = [answers[name]["label"] for name in names], [truth[name] for name in names]
    hits = sum(one == other for one, other in zip(said, right, strict=True))
    flagged = [answers[name]["decision"] == "flag" for name in names]
    of_flags = [right[at] == "overlay" for at, flag in enumerate(flagged) if flag]
    return {
        "accuracy": hits / len(names),
        "interval": [round(end, 3) for end in wilson(hits, len(names))],
        "balanced": round(float(balanced_accuracy_score(right, said)), 3),
        "auroc": round(float(roc_auc_score([r == "overlay" for r in right], [answers[n]["margin"] for n in names])), 3),
        "flags": sum(flagged),
        "flags_right": sum(of_flags),
        "review": sum(answers[name]["decision"] == "review" for name in names),
    }
