"""What every side does with an image: read its file, hash it, decode it, and hash the pixels in place of a model.

Runs in the Python of the rivals: the standard library and Pillow alone.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

BATCH = 64  # images of a task, as of our batches
PROCESSES = 2


def score(path: str) -> tuple[str, str, float]:
    """Return the name of an image, its hash and its margin."""
    return answer(path, Path(path).read_bytes())


def answer(path: str, data: bytes) -> tuple[str, str, float]:
    """Do the same with the file's bytes at hand."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    digest = hashlib.sha256(image.tobytes()).digest()
    return path, hashlib.sha256(data).hexdigest(), int.from_bytes(digest[:4], "big") / 2**32


def batches(paths: Sequence[str]) -> list[list[str]]:
    return [list(paths[start : start + BATCH]) for start in range(0, len(paths), BATCH)]


def turns(run: Callable[[list[str]], int]) -> None:
    """Run once for each folder that arrives on stdin, and answer with the number of images when it is done."""
    print("ready", flush=True)
    for line in sys.stdin:
        paths = sorted(str(path) for path in Path(line.strip()).iterdir())
        print(f"done {run(paths)}", flush=True)
