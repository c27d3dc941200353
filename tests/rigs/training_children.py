"""A training's child with small stages: `python -m tests.rigs.training_children ID TOKEN PARENT`.

Its behaviour is scripted: each attempt takes one word from the front of the file that SCRIPT_FILE names.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from scanfleet.db.training.adapters import AdapterInfo
from scanfleet.errors import StoreUnavailable, TrainingFailed
from scanfleet.worker.training import child
from scanfleet.worker.training.context import Context
from scanfleet.worker.training.publish import register


def next_word() -> str:
    path = Path(os.environ["SCRIPT_FILE"])
    first, _, rest = path.read_text().partition(" ")
    path.write_text(rest)
    return first


def fit(context: Context) -> dict[str, Any]:
    (context.work.path / "begun").touch()
    match next_word():
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raises":
            raise ZeroDivisionError("by itself")
        case "waits":
            raise StoreUnavailable("the bucket is away")
        case "fails":
            raise TrainingFailed("too few labelled images")
        case "lingers":
            for step in range(100_000):
                context.progress.report(step=step, steps=100_000, loss=0.5)
                time.sleep(0.02)
        case "hangs":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1000)
    return {"weights_sha256": "0" * 64}


def publish(context: Context) -> dict[str, Any]:
    info = AdapterInfo(
        check_name=context.check.name,
        check_hash=context.check.hash,
        base_model="pocket",
        base_revision="r",
        uri="/nowhere",
        weights_sha256=context.results["fit"]["weights_sha256"],
        training_id=context.training.id,
    )
    return {"adapter_id": register(context, info), "uri": info.uri}


def nothing(_: Context) -> dict[str, Any]:
    return {"labels": {}, "left_out": {}, "calibrator": None, "thresholds": None, "metrics": {}}


def compare(_: Context) -> dict[str, Any]:
    gate = {"verdict": "promote", "reason": "better"}
    return {"gate": gate, "lines": ["promote: better"], "champion_id": None, "problem": None, "shadow": None}


STAGES = (
    ("images", nothing),
    ("fit", fit),
    ("calibrate", nothing),
    ("publish", publish),
    ("compare", compare),
)

if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1:], stages=STAGES))
