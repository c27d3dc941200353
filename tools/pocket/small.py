"""Train the adapter of a check about one small part: a first pass that finds it, and a crop that identifies it.

A row has a whole view, a smaller one for context and a crop. The vision tower reads each once, and the language model
reads four turns of them: view alone, crop alone, view and crop, context and crop. There are three losses. The first is
the answer's letter in every turn (a part too small to tell leaves the margin near 0). The second is dense, on the
vision tower's tokens: which cells are the part's, and is the part of the flagged kind. The third is on the answer
position's attention, averaged over heads and the middle layers. It should lie on the part's cells, even in a first pass
that cannot identify the part, and evenly over a view when the prompt asks for a general description.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from peft import set_peft_model_state_dict
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import VisionProcessor, load_processor
from scanfleet.models.network.lora import adapter_state
from scanfleet.models.pocket.questions import RAZOR
from tools.pocket.adapt import NAME, prepare
from tools.pocket.forward import Answer, VisionFeatures, encode_images, read_images
from tools.pocket.small_rows import LARGE, TINY, Picture, Range, Rows, Shape, bags, draw_rows

WARM_UP = 40  # steps
MINE = 0.3  # from this share on a cell counts as the part's
GENERIC = "Write a general description of the image."
RARE = 10.0  # weight of the part's cells against the many others


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training.

    Attributes:
        steps: number of steps.
        rows: of a step.
        crops: rows of a step with crops alone, of 192 x 192 px (more of smaller ones).
        alone: share of such steps.
    """

    steps: int
    rows: int
    crops: int
    alone: float


class Readers(nn.Module):
    """Linear readers of a cell: is it the part's, and is the part of the flagged kind; thrown away afterwards."""

    def __init__(self, width: int, deep: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(nn.Linear(width, 2) for _ in range(1 + deep))

    def loss(self, seen: VisionFeatures, part: Tensor, flagged: Tensor) -> Tensor:
        """part: (B, M), 0..1. flagged: (B,), 0 or 1."""
        mine = (part > MINE).float()
        total = []
        for reader, x in zip(self.readers, (seen.merged, *seen.deep), strict=True):
            here, kind = reader(x).float().unbind(-1)
            there = F.binary_cross_entropy_with_logits(here, part, weight=1 + (RARE - 1) * mine)
            told = F.binary_cross_entropy_with_logits(kind, flagged[:, None].expand_as(kind), reduction="none")
            total.append(there + (told * mine).sum() / mine.sum().clamp(min=1))
        return torch.stack(total).mean()


def on_the_part(attention: Tensor, part: Tensor, layers: Sequence[int]) -> Tensor:
    """Return minus the log share of the attention to the images that lies on the part's cells.

    Rows without a part are left out.

    Args:
        attention: [layers, batch, heads, M].
        part: [batch, M], 0..1.
        layers: to average over.
    """
    mean = attention[list(layers)].float().mean((0, 2))
    mine = (part > MINE).float()
    share = (mean * mine).sum(1) / mean.sum(1)
    there = mine.any(1)
    return -(share.clamp(min=1e-6).log() * there).sum() / there.sum().clamp(min=1)


def spread(attention: Tensor, layers: Sequence[int]) -> Tensor:
    """Return the Kullback-Leibler divergence of the attention to an image from an even one."""
    mean = attention[list(layers)].float().mean((0, 2))
    share = (mean / mean.sum(1, keepdim=True)).clamp(min=1e-6)
    return -(share * share.shape[1]).log().mean()


class Fit:
    """The training of the adapter, resumable from `work/razor-part.pt`."""

    def __init__(self, recipe: dict[str, Any], work: Path, base: Path) -> None:
        torch.manual_seed(recipe["seed"])
        self.recipe, self.part, self.work = recipe, recipe["small"], work
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        self.wrapped = prepare(self.model, recipe)
        self.model.train()
        vision = self.model.config.vision_config
        self.readers = Readers(vision.out_hidden_size, len(vision.deepstack_visual_indexes))
        self.params = [p for p in (*self.model.parameters(), *self.readers.parameters()) if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.params, lr=recipe["adapter"]["lr"], betas=(0.9, 0.98), weight_decay=0.01
        )
        processor = load_processor(base, FAMILIES["qwen3_vl"])
        prompt = processor.prompt(RAZOR)
        self.before = torch.tensor([prompt.turn.before])
        self.after = torch.tensor(prompt.turn.after)
        self.generic = torch.tensor([_generic(processor)])
        # Between two images stands what the template writes round each: the end of one, the start of the next.
        self.between = torch.tensor([prompt.turn.after[0], prompt.turn.before[-1]])
        self.answers = torch.tensor([code.answer_id for code in prompt.codes])
        self.bags = [
            bags(work / "pools", seed=self.part["seed"] + n, count=count, size=(w, h))
            for n, (w, h, count) in enumerate(self.part["bags"])
        ]
        self.stages = [Stage(**stage) for stage in self.part["stages"]]
        self.steps = sum(stage.steps for stage in self.stages)
        self.at, self.seconds = 0, 0.0

    def load(self) -> None:
        path = self.work / "razor-part.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            set_peft_model_state_dict(self.wrapped, state["lora"], adapter_name=NAME)
            self.readers.load_state_dict(state["readers"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.at, self.seconds = state["at"], state["seconds"]

    def save(self, name: str) -> None:
        state = {
            "lora": {key: value.detach().clone() for key, value in adapter_state(self.wrapped, NAME).items()},
            "readers": self.readers.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "at": self.at,
            "seconds": self.seconds,
        }
        torch.save(state, self.work / f"{name}.new")
        (self.work / f"{name}.new").replace(self.work / name)

    def train(self) -> None:
        """Run the remaining steps; a checkpoint every 100."""
        notes: list[dict[str, float]] = []
        started = time.monotonic()
        for step in range(self.at, self.steps):
            notes.append(self._step(step))
            if step % 50 == 49:
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                self.at = step + 1
                print(f"razor step {step + 1}/{self.steps}: {_told(notes)} ({self.seconds:.0f} s)", flush=True)
                notes = []
            if step % 100 == 99:
                self.save("razor-part.pt")
        self.save("razor.pt")

    def rate(self, step: int) -> float:
        """Steady, then down in a straight line, after a warm-up."""
        left = (1 - step / self.steps) / (1 - self.part["steady"])
        lr: float = self.recipe["adapter"]["lr"]
        return lr * min(1.0, (step + 1) / WARM_UP, max(0.02, left))

    def _stage(self, step: int) -> Stage:
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def _rows(self, step: int) -> Rows:
        rng = random.Random(f"razor/{self.part['seed']}/{step}")
        stage, views, crops = self._stage(step), self.part["views"], self.part["crops"]
        alone = rng.random() < stage.alone
        view, context, _ = rng.choices(views, [often for *_, often in views])[0]
        w, h, _ = rng.choices(crops, [often for *_, often in crops])[0]
        proportion = view[0] / view[1]
        empty: Picture = next(b for b in self.bags if abs(b.shape[2] / b.shape[1] - proportion) < 0.1)
        whole = {} if alone else {"view": tuple(view), "context": tuple(context)}
        tiny = round(20 * self.part["tiny"])
        ranges: list[Range] = [TINY] * tiny + [LARGE] * (20 - tiny)
        count = round(stage.crops * 192 * 192 / (w * h)) if alone else stage.rows
        return draw_rows(rng, empty, Shape(crop=(w, h), whole=whole), ranges, count)

    def _step(self, step: int) -> dict[str, float]:
        rows = self._rows(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.part["autocast"]):
            loss, notes = self._loss(rows)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimiser.param_groups[0]["lr"] = self.rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return notes

    def _loss(self, rows: Rows) -> tuple[Tensor, dict[str, float]]:
        labels = torch.from_numpy(rows.labels)
        seen = {
            name: encode_images(self.model.model.visual, torch.from_numpy(one.images))
            for name, one in rows.shown.items()
        }
        parts = {name: torch.from_numpy(one.part) for name, one in rows.shown.items()}
        flagged = (labels == 0).float()
        dense = torch.stack([self.readers.loss(seen[name], parts[name], flagged) for name in seen]).mean()
        alone = "view" not in seen
        turns = [["crop"]] if alone else [["view"], ["crop"], ["view", "crop"], ["context", "crop"]]
        answers, attention, notes = [], [], {}
        for turn in turns:
            answer = self._read([seen[name] for name in turn])
            logits = answer.hidden @ self.model.model.language_model.embed_tokens.weight.T
            answers.append(F.cross_entropy(logits.float(), self.answers[labels]))
            attention.append(
                on_the_part(answer.attention, torch.cat([parts[name] for name in turn], 1), self.part["layers"])
            )
            notes["+".join(turn)] = answers[-1].item()
            notes["look " + "+".join(turn)] = attention[-1].item()
        if not alone:
            notes["even"] = (
                even := spread(self._read([seen["view"]], self.generic).attention, self.part["layers"])
            ).item()
            attention.append(self.part["even"] * len(attention) * even)
        answer_loss, attention_loss = torch.stack(answers).mean(), torch.stack(attention).mean()
        loss = answer_loss + self.part["dense"] * dense + self.part["attention"] * attention_loss
        return loss, {"dense": dense.item(), **notes}

    def _read(self, images: list[VisionFeatures], before: Tensor | None = None) -> Answer:
        before = self.before if before is None else before
        after = [self.between] * (len(images) - 1) + [self.after]
        length = torch.tensor([before.shape[1]])
        return read_images(self.model.model.language_model, images, before, length, after, attention=True)


def _generic(processor: VisionProcessor) -> tuple[int, ...]:
    """The text before an image that asks for a general description: the reference of `models.relevance`."""
    return processor.turn(GENERIC, image_first=False).before


def _told(notes: list[dict[str, float]]) -> str:
    names = dict.fromkeys(name for note in notes for name in note)
    return " ".join(f"{name} {np.mean([note[name] for note in notes if name in note]):.3f}" for name in names)


def train_small(recipe: dict[str, Any], work: Path, base: Path) -> None:
    """Train the razor adapter on the checkpoint in `base` and write `work/razor.pt`, unless it is there."""
    torch.set_num_threads(1)
    if not (work / "razor.pt").exists():
        fit = Fit(recipe, work, base)
        fit.load()
        fit.train()
