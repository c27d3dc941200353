"""The refresh of an adapter, end to end, on generated pictures: `make demo-refresh`.

The base model alone answers a check without an adapter. Labels arrive, a training worker makes an adapter of them, the
gate compares it with the current one, and the running scoring worker takes it over. Then a poisoned set of labels
arrives, and the gate refuses its adapter. Finally a person rolls back.

Everything goes through the command line, as a person would do it.
"""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "demo-refresh"
CHECK = "laid-over"
LABELS = ("overlay", "natural", "none")
N_NEW, N_GOLDEN, N_THRESHOLD, N_UNSEEN, N_POISONED, N_LATER = 200, 300, 300, 300, 200, 60
PATIENCE_SECONDS = 120.0  # for a worker to notice labels
POLL_SECONDS = 0.5
PROGRAM = str(Path(sys.executable).with_name("scanfleet"))
ENVIRONMENT = os.environ | {
    "SCANFLEET_DATA_DIR": str(PLACE / "data"),
    "SCANFLEET_LOG_LEVEL": "warning",
    "SCANFLEET_TRAIN_AFTER_LABELS": "100",
    "SCANFLEET_TRAIN_CHECK_SECONDS": "2",
}

CHECK_FILE = f"""\
# The overlay question under a name of its own: no adapter was ever trained for it.
name = "{CHECK}"
prompt = "Is there text in this image, and was it added on top of the picture or is it part of the scene?"
labels = ["overlay", "natural", "none"]
flags = ["overlay"]
max_pixels = 200704
target_recall = 0.9
target_precision = 0.7

[descriptions]
overlay = "text added on top"
natural = "text in the scene only"
none = "no text"
"""


class DemoFailedError(Exception):
    """A step did not have its expected outcome."""


def main() -> int:
    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    try:
        _run_story()
    except DemoFailedError as error:
        print(f"demo-refresh: {error} (logs in {PLACE})", file=sys.stderr)
        return 1
    print(f"\n{time.monotonic() - began:.0f} s in all; everything is in {PLACE}")
    return 0


def _run_story() -> None:
    announce(f"Pictures: {N_UNSEEN} unseen ones, {N_GOLDEN + N_THRESHOLD} audited ones, {N_NEW} to learn from")
    unseen = archive("unseen", N_UNSEEN, seed=31)
    golden = archive("golden", N_GOLDEN, seed=32)
    threshold = archive("threshold", N_THRESHOLD, seed=36)
    new = archive("new", N_NEW, seed=33)
    poisoned = poison(archive("poisoned", N_POISONED, seed=34))
    (PLACE / "check.toml").write_text(CHECK_FILE)
    scanfleet("checks", "add", str(PLACE / "check.toml"))

    with process("score") as scorer, process("train"):
        announce("Before: no adapter was ever trained for this check, the base model alone answers")
        before = scan(unseen)
        scanfleet("scans", "agreement", before, "--truth", "truth")
        announce("Auditors label two sets that no training learns from: one to judge adapters, one to set thresholds")
        labels(golden, "--split", "golden", "--who", "auditor")
        labels(threshold, "--split", "threshold", "--who", "auditor")
        announce("Then 200 labels arrive to learn from")
        labels(new, "--who", "analyst")
        announce("The training worker starts a training; the scoring worker keeps running")
        expect_verdict(training(1), "promote")
        announce("After: the same worker, not restarted, scores the unseen pictures again with the new adapter")
        scanfleet("rescan", before, "--all", "--wait")
        scanfleet("scans", "agreement", before, "--truth", "truth")
        scanfleet("rescan", before, "--report", "--format", "csv", "-o", str(PLACE / "flips.csv"))
        announce("A poisoned set arrives: 200 more pictures, every label wrong")
        labels(poisoned, "--who", "stranger")
        expect_verdict(training(2), "reject")
        scanfleet("adapters", "ls", "--check", CHECK)
        announce("The first adapter is still in use. A person rolls back to the base model alone")
        scanfleet("adapters", "rollback", "--check", CHECK, "--why", "demonstration")
        after = scan(archive("later", N_LATER, seed=35))
        expect(modes(after) == {"zero-shot, menu rotated"}, "the worker did not follow the rollback")
        scanfleet("adapters", "ls", "--check", CHECK)
        expect(scorer.poll() is None, "the scoring worker ended during the demo")


def announce(text: str) -> None:
    print(f"\n== {text}", flush=True)


def expect(held: bool, text: str) -> None:
    if not held:
        raise DemoFailedError(text)


def archive(name: str, n: int, *, seed: int) -> Path:
    """Pictures with known truth; the manifest's path."""
    out = PLACE / name
    generate = [sys.executable, "-m", "scanfleet.models.pocket.generate", "--check", "overlay", "--sizes", "128"]
    call([*generate, "--n", str(n), "--seed", str(seed), "--out", str(out)], quiet=True)
    return out / "manifest.csv"


def poison(manifest: Path) -> Path:
    """Replace every label by a wrong one."""
    rng = random.Random(0)  # noqa: S311
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["truth"] = rng.choice([label for label in LABELS if label != row["truth"]])
    with manifest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def labels(manifest: Path, *options: str) -> None:
    scanfleet("labels", "import", str(manifest), "--check", CHECK, "--label-column", "truth", "--yes", *options)


def scan(manifest: Path) -> str:
    """The id of a scan that has ended."""
    return scanfleet("scan", str(manifest), "--check", CHECK, "--wait").splitlines()[0].strip()


def training(number: int) -> dict[str, Any]:
    """Wait for the number-th training, which starts automatically, and return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(found := trainings()) < number:
        expect(time.monotonic() < deadline, "the training worker did not start a training")
        time.sleep(POLL_SECONDS)
    newest = max(found, key=lambda each: int(each["id"]))
    scanfleet("train", "watch", str(newest["id"]))
    scanfleet("train", "show", str(newest["id"]))
    return max(trainings(), key=lambda each: int(each["id"]))


def trainings() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(scanfleet("train", "ls", "--check", CHECK, "--format", "json", quiet=True))
    return found


def expect_verdict(training: dict[str, Any], verdict: str) -> None:
    expect(training["verdict"] == verdict, f"training {training['id']} ended with {training['verdict']}, not {verdict}")


def modes(scan_id: str) -> set[str]:
    """Return the modes by which the images of a scan were answered."""
    lines = scanfleet("results", "export", "--scan", scan_id, "--format", "jsonl", quiet=True).splitlines()
    return {json.loads(line)["scorer"]["mode"] for line in lines}


def scanfleet(*arguments: str, quiet: bool = False) -> str:
    """Run a command, print its output as it comes, and return it."""
    if not quiet:
        print(f"\n$ scanfleet {' '.join(arguments)}", flush=True)
    return call([PROGRAM, *arguments], quiet=quiet)


def call(command: list[str], *, quiet: bool) -> str:
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if not quiet:
        print(done.stdout, end="", flush=True)
    expect(done.returncode == 0, f"{' '.join(command)} ended with exit code {done.returncode}")
    return done.stdout


@contextmanager
def process(kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of this kind, and stop it at the end."""
    with (PLACE / f"worker-{kind}.log").open("wb") as log:
        worker = subprocess.Popen(  # noqa: S603
            [PROGRAM, "worker", kind], cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                worker.kill()


if __name__ == "__main__":
    sys.exit(main())
