"""Animations with the overlay in one frame of eight: what the first frame finds, and what `[frames]` does."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from PIL import Image

from bench.report import Report
from scanfleet.checks.check import Check, load_check
from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import load_settings
from scanfleet.db.results.answers import NewVerdict
from scanfleet.db.scans.batches import ClaimedImage
from scanfleet.models.pocket.scenes import overlay
from scanfleet.worker.batch.context import WorkerContext
from scanfleet.worker.commands.standalone import resolve_alone
from scanfleet.worker.commands.stream import score_stream, stages
from scanfleet.worker.device.probe import UNPROBED_TOKENS
from scanfleet.worker.scoring.model import Model, load_model

SEED = 9_100_000  # no part of the model was fitted to these pictures
N_FILES, N_FRAMES, SIDE = 40, 8, 128
TARGET = "overlay"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The verdicts in the order of the files, and the visual tokens of all forwards without padding."""

    verdicts: Sequence[NewVerdict]
    tokens: float

    def share(self, files: Sequence[int], **wanted: object) -> float:
        """Return the share of these files whose verdict has these fields."""
        hits = [all(getattr(self.verdicts[at], name) == value for name, value in wanted.items()) for at in files]
        return sum(hits) / len(hits)


def run() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(data_dir=Path(folder), model="pocket")
        truth = _draw(Path(folder))
        model, check = load_model(settings), load_check(TARGET)
        one = check.model_copy(update={"frames": FrameSettings(max=1)})
        with stages(settings, model, token_budget=UNPROBED_TOKENS) as parts:
            first, every = (_score(Path(folder), model, each, parts) for each in (one, check))
    targets, others = ([at for at, holds in enumerate(truth) if holds is wanted] for wanted in (True, False))
    cleared = [at for at in targets if (found := first.verdicts[at].frames) is not None and found.reason is not None]
    return Report(
        name="frames",
        figures={
            "recall_first": first.share(targets, decision="flag"),
            "recall_frames": every.share(targets, decision="flag"),
            "cleared_by_first_frame": len(cleared) / len(targets),
            "cleared_by_frames": every.share(targets, decision="clear"),
            "false_flags_first": first.share(others, decision="flag"),
            "false_flags_frames": every.share(others, decision="flag"),
            "review_share": every.share(range(N_FILES), decision="review"),
            "token_cost_ratio": every.tokens / first.tokens,
        },
        notes=(
            f"{N_FILES} animations of {N_FRAMES} frames of {SIDE} px, half of them with an overlay in one frame",
            "recall: targets that are flagged; first: [frames] max = 1; frames: the default",
            "cleared_by_first_frame: targets that would be clear if later frames did not make them a review",
        ),
    )


def _draw(folder: Path) -> list[bool]:
    """Write the files, and return which hold an overlay: in turn in each of their frames."""
    with_text, without = _scenes(wanted=True), _scenes(wanted=False)
    truth = [number % 2 == 0 for number in range(N_FILES)]
    for number, holds in enumerate(truth):
        frames = [next(without) for _ in range(N_FRAMES)]
        if holds:
            frames[number // 2 % N_FRAMES] = next(with_text)
        file = io.BytesIO()
        frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], duration=500)
        _path(folder, number).write_bytes(file.getvalue())
    return truth


def _scenes(*, wanted: bool) -> Iterator[Image.Image]:
    for index in count():
        scene = overlay.draw(SEED, index, SIDE, SIDE)
        if (scene.label == TARGET) is wanted:
            yield scene.image


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.png"


def _score(folder: Path, model: Model, check: Check, parts: WorkerContext) -> Scored:
    images = (
        ClaimedImage(id=number, uri=str(_path(folder, number)), root=str(folder), etag=None, identity="")
        for number in range(N_FILES)
    )
    verdicts: list[NewVerdict] = []
    tokens = 0.0
    for _, outcome in score_stream(images, resolve_alone(model, check, None), parts):
        verdicts += outcome.verdicts
        tokens += outcome.seconds["first_tokens"]
    if len(verdicts) != N_FILES:
        raise AssertionError(f"{N_FILES - len(verdicts)} of {N_FILES} files have no verdict")
    return Scored(verdicts=sorted(verdicts, key=lambda verdict: verdict.image_id), tokens=tokens)
