"""`detector`: an object detector, whose surest box of each class is the picture's score.

RT-DETR, YOLOS and their kin in transformers, all Apache-2.0, from a folder or from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scanfleet.models.baselines.fitted import Fitted, LogOdds, Task
from scanfleet.models.baselines.held_out import Places, hold_out
from scanfleet.models.baselines.network import Schedule, tensor_of, train
from scanfleet.models.errors import ModelInvalid, one_line
from scanfleet.models.types import Box

if TYPE_CHECKING:
    import torch

OPTIONS = ("boxes", "weights", "width", "queries", "side", "epochs", "batch", "lr", "flip", "device")
_ABSENT = -20.0  # log-odds of a class without pictures
_SOFTMAX = ("yolos", "detr", "conditional_detr")  # a class for no object, and pixels on the scale of ImageNet
_LEAST = 1e-6  # of a box's score, so that its logit is finite


def fit_detector(task: Task) -> Fitted:
    """Fit a detector on the option `boxes`: for each picture its boxes, in pixels. Raises ModelInvalid."""
    import torch

    task.allow(*OPTIONS)
    boxes = _boxes(task)
    kinds = tuple(name for name in task.names if any(box.label == name for some in boxes for box in some))
    plan = Schedule.of(task, epochs=50, rate=1e-4 if task.option("weights", "") else 1e-3)
    learn, held = hold_out(task.targets, seed=task.seed)
    side, device = task.positive("side", 320), task.option("device", "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = _model(task, len(kinds), side=side).to(device)
        network = _Network(model=model, side=side, device=device)

        def loss_of(places: Places, dice: random.Random) -> torch.Tensor:
            mirrored = [plan.flip and dice.random() < 0.5 for _ in places]
            pictures = [_turned(task.pictures[place], flip) for place, flip in zip(places, mirrored, strict=True)]
            targets = [
                _target(boxes[place], task.pictures[place].size, kinds, flip=flip, device=device)
                for place, flip in zip(places, mirrored, strict=True)
            ]
            loss: torch.Tensor = model(pixel_values=network.pixels(pictures), labels=targets).loss
            return loss

        train(model, loss_of, learn, plan, seed=task.seed, adaptive=True)
    judges = held if len(held) else learn
    return _Detector.calibrated(network, [task.pictures[place] for place in judges], task.targets[judges], task)


@dataclass(frozen=True, kw_only=True)
class _Network:
    model: Any
    side: int
    device: str

    @property
    def is_softmax(self) -> bool:
        return self.model.config.model_type in _SOFTMAX

    def pixels(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        return tensor_of(pictures, self.side, scaled=self.is_softmax).to(self.device)

    def scores(self, pictures: Sequence[Image.Image], *, batch: int = 16) -> LogOdds:
        """Return `[pictures, kinds]` logits of the surest box of each kind."""
        import torch

        found = []
        for start in range(0, len(pictures), batch):
            with torch.inference_mode():
                logits = self.model(pixel_values=self.pixels(pictures[start : start + batch])).logits.double()
            shares = logits.softmax(-1)[..., :-1] if self.is_softmax else logits.sigmoid()
            found.append(shares.amax(dim=1).cpu().numpy())  # over the boxes
        best = np.clip(np.concatenate(found), _LEAST, 1 - _LEAST)
        return np.log(best) - np.log1p(-best)


@dataclass(frozen=True, kw_only=True)
class _Detector:
    """regression: from the logits of the surest boxes to the classes, fitted on pictures that were held out."""

    network: _Network
    regression: Any
    n_names: int

    @classmethod
    def calibrated(cls, network: _Network, pictures: Sequence[Image.Image], targets: Places, task: Task) -> _Detector:
        from sklearn.linear_model import LogisticRegression

        regression = LogisticRegression(max_iter=1000).fit(network.scores(pictures), targets)
        return cls(network=network, regression=regression, n_names=len(task.names))

    def log_odds(self, pictures: Sequence[Image.Image]) -> LogOdds:
        odds = np.full((len(pictures), self.n_names), _ABSENT, dtype=np.float64)
        if len(pictures):
            odds[:, self.regression.classes_] = self.regression.predict_log_proba(self.network.scores(pictures))
        return odds


def _boxes(task: Task) -> Sequence[Sequence[Box]]:
    given = task.options.get("boxes")
    if not isinstance(given, Sequence) or len(given) != len(task.pictures):
        raise ModelInvalid(f"{task.name}: option boxes must hold those of each of the {len(task.pictures)} pictures")
    found = [list(some) for some in given]
    for box in (box for some in found for box in some):
        if not isinstance(box, Box) or box.label not in task.names:
            raise ModelInvalid(f"{task.name}: option boxes must hold boxes with labels among {', '.join(task.names)}")
    if not any(found):
        raise ModelInvalid(f"{task.name}: no picture has a box to learn from")
    return found


def _turned(picture: Image.Image, flip: bool) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else picture


def _target(
    boxes: Sequence[Box], size: tuple[int, int], kinds: tuple[str, ...], *, flip: bool, device: str
) -> dict[str, torch.Tensor]:
    """Return the boxes of one picture as DETR has them: centre and sides, as shares of the picture's."""
    import torch

    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for box in boxes], dtype=np.float32).reshape(-1, 4)
    low, high = corners[:, :2] / size, corners[:, 2:] / size
    centre, sides = (low + high) / 2, high - low
    if flip:
        centre[:, 0] = 1 - centre[:, 0]
    labels = [kinds.index(box.label) for box in boxes]
    return {
        "class_labels": torch.tensor(labels, dtype=torch.int64, device=device),
        "boxes": torch.tensor(np.concatenate([centre, sides], axis=1), dtype=torch.float32, device=device),
    }


def _model(task: Task, n_kinds: int, *, side: int) -> Any:
    """Return the detector of a folder with a new last layer, or a small untrained RT-DETR. Raises ModelInvalid."""
    from transformers import AutoModelForObjectDetection, RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    weights = task.option("weights", "")
    if weights:
        if not (Path(weights) / "config.json").is_file():
            raise ModelInvalid(f"{task.name}: weights: {weights} holds no config.json of a detector of transformers")
        try:
            return AutoModelForObjectDetection.from_pretrained(
                weights, num_labels=n_kinds, ignore_mismatched_sizes=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelInvalid(f"{task.name}: weights: {one_line(error)}") from error
    width = task.positive("width", 64)
    if width % 16 or side % 32:
        raise ModelInvalid(f"{task.name}: option width must be a multiple of 16, and side of 32")
    backbone = RTDetrResNetConfig(
        embedding_size=width // 2, hidden_sizes=[width // 2, width, width, 2 * width], depths=[1, 1, 1, 1],
        layer_type="basic", out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone, num_labels=n_kinds, encoder_in_channels=[width, width, 2 * width],
            encoder_hidden_dim=width, d_model=width, decoder_in_channels=[width] * 3, encoder_ffn_dim=2 * width,
            decoder_ffn_dim=2 * width, encoder_attention_heads=4, decoder_attention_heads=4, decoder_layers=3,
            num_queries=task.positive("queries", 50), num_denoising=20, freeze_backbone_batch_norms=False,
        )
    )  # fmt: skip
