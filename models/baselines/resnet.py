"""`resnet`: the convolutional network that everybody would try first, from a folder of weights or from scratch."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import log_softmax

from scanfleet.models.baselines.fitted import Fitted, LogOdds, Task
from scanfleet.models.baselines.held_out import Places, hold_out, temperature
from scanfleet.models.baselines.network import Schedule, tensor_of, train, varied
from scanfleet.models.errors import ModelInvalid, one_line

if TYPE_CHECKING:
    import torch

Extra = NDArray[np.float32]  # [pictures, figures] beside the pixels, such as what is read in them
_LAYERS = {18: ("basic", [2, 2, 2, 2]), 34: ("basic", [3, 4, 6, 3]), 50: ("bottleneck", [3, 4, 6, 3])}
_ABSENT = -20.0  # log-odds of a class without pictures
OPTIONS = ("weights", "depth", "width", "side", "epochs", "batch", "lr", "flip", "device")


def fit_resnet(task: Task) -> Fitted:
    """Fit a ResNet (He et al. 2016) on the pictures. Raises ModelInvalid."""
    task.allow(*OPTIONS)
    return fit_with(task, figures=lambda pictures: np.zeros((len(pictures), 0), dtype=np.float32))


def fit_with(task: Task, *, figures: Callable[[Sequence[Image.Image]], Extra]) -> Fitted:
    """Fit a ResNet whose last layer also sees `figures` of each picture, each on the scale of its spread."""
    import torch

    side, weights = task.positive("side", 224), task.option("weights", "")
    plan = Schedule.of(task, epochs=30 if weights else 90, rate=0.01 if weights else 0.1)
    learn, held = hold_out(task.targets, seed=task.seed)
    known = np.unique(task.targets)
    targets = torch.from_numpy(np.searchsorted(known, task.targets))
    extra = figures(task.pictures)
    centre, spread = extra[learn].mean(axis=0), extra[learn].std(axis=0) + 1e-6
    scaled = torch.from_numpy((extra - centre) / spread)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        network = _Network(
            _body(task, weights), n_extra=extra.shape[1], n_labels=len(known), device=task.option("device", "cpu")
        )

        def loss_of(places: Places, dice: random.Random) -> torch.Tensor:
            pixels = tensor_of([varied(task.pictures[place], dice, flip=plan.flip) for place in places], side)
            logits = network(pixels, scaled[places])
            return torch.nn.functional.cross_entropy(logits, targets[places].to(logits.device))

        train(network.module, loss_of, learn, plan, seed=task.seed)
    fitted = _Resnet(
        network=network, side=side, figures=figures, centre=centre, spread=spread, known=known, n_names=len(task.names),
        warmth=1.0,
    )  # fmt: skip
    raw = fitted.logits([task.pictures[place] for place in held], extra[held])
    warmth = temperature(raw, targets[held].numpy())
    return replace(fitted, warmth=warmth)


@dataclass(frozen=True, kw_only=True)
class _Resnet:
    """centre, spread: of the figures. known: places in the names of the classes with pictures. warmth: temperature."""

    network: _Network
    side: int
    figures: Callable[[Sequence[Image.Image]], Extra]
    centre: Extra
    spread: Extra
    known: Places
    n_names: int
    warmth: float

    def log_odds(self, pictures: Sequence[Image.Image]) -> LogOdds:
        odds = np.full((len(pictures), self.n_names), _ABSENT, dtype=np.float64)
        odds[:, self.known] = log_softmax(self.logits(pictures, self.figures(pictures)) / self.warmth, axis=1)
        return odds

    def logits(self, pictures: Sequence[Image.Image], figures: Extra, *, batch: int = 32) -> LogOdds:
        """Return `[pictures, known classes]` of the network, uncalibrated."""
        import torch

        found = [np.zeros((0, len(self.known)))]
        for start in range(0, len(pictures), batch):
            part = slice(start, start + batch)
            extra = torch.from_numpy((figures[part] - self.centre) / self.spread)
            with torch.inference_mode():
                found.append(self.network(tensor_of(pictures[part], self.side), extra).double().cpu().numpy())
        return np.concatenate(found)


class _Network:
    """A ResNet's pooled features and some figures, and a linear layer over both."""

    def __init__(self, body: Any, *, n_extra: int, n_labels: int, device: str) -> None:
        import torch

        last = torch.nn.Linear(body.config.hidden_sizes[-1] + n_extra, n_labels)
        self.module = torch.nn.ModuleDict({"body": body, "last": last}).to(device)
        self._device = device

    def __call__(self, pixels: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        """Return `[pictures, labels]` logits."""
        import torch

        pooled = self.module["body"](pixels.to(self._device)).pooler_output.flatten(1)
        found: torch.Tensor = self.module["last"](torch.cat([pooled, extra.to(self._device)], dim=1))
        return found


def _body(task: Task, weights: str) -> Any:
    """Return the ResNet of a folder, or an untrained one. Raises ModelInvalid."""
    from transformers import ResNetConfig, ResNetModel

    if weights:
        if not (Path(weights) / "config.json").is_file():
            raise ModelInvalid(f"{task.name}: weights: {weights} holds no config.json of a ResNet of transformers")
        try:
            return ResNetModel.from_pretrained(weights, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelInvalid(f"{task.name}: weights: {one_line(error)}") from error
    depth, width = task.option("depth", 18), task.positive("width", 64)
    if depth not in _LAYERS:
        raise ModelInvalid(f"{task.name}: option depth = {depth} must be one of {', '.join(map(str, _LAYERS))}")
    kind, depths = _LAYERS[depth]
    widths = [width * 2**stage * (4 if kind == "bottleneck" else 1) for stage in range(4)]
    return ResNetModel(ResNetConfig(embedding_size=width, hidden_sizes=widths, depths=depths, layer_type=kind))
