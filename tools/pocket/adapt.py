"""One LoRA adapter per check on the frozen base, which itself never learns from a check.

The loss is the answer's letter, and beside it a dense one on the boxes: for every 32 x 32 px cell of the vision tower's
tokens, the label whose box it lies in (its heads are thrown away afterwards). The batch shares the instruction, which
is read once a step. The recipe adapts the tower's linear layers too; docs/pocket.md says why.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from peft import set_peft_model_state_dict
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import load_processor
from scanfleet.models.network.lora import adapter_state, add_lora
from scanfleet.models.pocket.questions import QUESTIONS
from tools.pocket.base import Heads
from tools.pocket.data import Pool, make_pool
from tools.pocket.forward import encode_images, read_image

NAME = "pocket"  # of the adapter inside the PeftModel
WARM_UP = 40  # steps


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The rows of one pool that a step learns from."""

    pool: int
    rows: np.ndarray[Any, np.dtype[np.int64]]


def settings(recipe: dict[str, Any]) -> LoraSettings:
    part = recipe["adapter"]
    return LoraSettings(
        r=part["rank"], lora_alpha=float(part["alpha"]), lora_dropout=part["dropout"], target_modules=part["targets"]
    )


def prepare(model: Any, recipe: dict[str, Any]) -> Any:
    """Wrap the model with fresh LoRA modules, and check that they are where the recipe puts them."""
    wrapped = add_lora(model, settings(recipe), name=NAME)
    names = {key.split(".lora_")[0] for key in adapter_state(wrapped, NAME)}
    vision = sum("visual" in name for name in names)
    part = recipe["adapter"]
    if (len(names) - vision, vision) != (part["language_matches"], part["vision_matches"]):
        raise RuntimeError(f"the LoRA targets match {len(names) - vision} language and {vision} vision modules")
    return wrapped


def adapter_pool(recipe: dict[str, Any], work: Path, check: str, number: int, processes: int = 1) -> Pool:
    """Return the images of one size for an adapter's training; generate them if they are missing."""
    part, seed = recipe["adapter"]["pools"][number], recipe["adapter"]["seeds"][check] + 10 * number
    size = (part["size"][0], part["size"][1])
    return make_pool(work / "pools", check, seed=seed, count=part["images"], size=size, processes=processes)


def schedule(recipe: dict[str, Any], check: str) -> list[Batch]:
    """The batches of a run: pools reshuffled each time round, sizes interleaved, fewer of the larger images."""
    rng = np.random.default_rng([recipe["seed"], recipe["adapter"]["seeds"][check]])
    steps: list[Batch] = []
    while len(steps) < recipe["adapter"]["steps"]:
        turn: list[Batch] = []
        for number, part in enumerate(recipe["adapter"]["pools"]):
            size = max(4, round(recipe["adapter"]["batch"] * 128 * 128 / (part["size"][0] * part["size"][1])))
            order = rng.permutation(part["images"])
            turn += [Batch(pool=number, rows=order[i : i + size]) for i in range(0, len(order) - size + 1, size)]
        steps += [turn[i] for i in rng.permutation(len(turn))]
    return steps[: recipe["adapter"]["steps"]]


class Fit:
    """The training of one adapter, resumable from `work/<check>-part.pt`."""

    def __init__(self, recipe: dict[str, Any], work: Path, check: str) -> None:
        torch.manual_seed(recipe["seed"])
        self.recipe, self.work, self.check = recipe, work, check
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(work / "base", dtype=torch.float32)
        self.wrapped = prepare(self.model, recipe)
        self.model.train()
        vision = self.model.config.vision_config
        labels = len(QUESTIONS[check].labels)
        self.heads = Heads(vision.out_hidden_size, len(vision.deepstack_visual_indexes), labels)
        self.params = [p for p in (*self.model.parameters(), *self.heads.parameters()) if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.params, lr=recipe["adapter"]["lr"], betas=(0.9, 0.98), weight_decay=0.01
        )
        prompt = load_processor(work / "base", FAMILIES["qwen3_vl"]).prompt(QUESTIONS[check])
        self.before = torch.tensor([prompt.turn.before])
        self.after = torch.tensor(prompt.turn.after)
        self.answers = torch.tensor([code.answer_id for code in prompt.codes])
        self.pools = [adapter_pool(recipe, work, check, n) for n in range(len(recipe["adapter"]["pools"]))]
        self.at, self.seconds = 0, 0.0

    def load(self) -> None:
        path = self.work / f"{self.check}-part.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            set_peft_model_state_dict(self.wrapped, state["lora"], adapter_name=NAME)
            self.heads.load_state_dict(state["heads"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.at, self.seconds = state["at"], state["seconds"]

    def save(self, name: str) -> None:
        state = {
            "lora": {key: value.detach().clone() for key, value in adapter_state(self.wrapped, NAME).items()},
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "at": self.at,
            "seconds": self.seconds,
        }
        torch.save(state, self.work / f"{name}.new")
        (self.work / f"{name}.new").replace(self.work / name)

    def train(self) -> None:
        """Run the remaining steps; a checkpoint every 100."""
        batches = schedule(self.recipe, self.check)
        notes, started = [], time.monotonic()
        for step in range(self.at, len(batches)):
            notes.append(self._step(batches[step], step / len(batches), step))
            if step % 50 == 49:
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                self.at = step + 1
                dense, answer, right = np.mean(notes, 0)
                print(
                    f"{self.check} step {step + 1}/{len(batches)}: dense {dense:.4f} answer {answer:.3f} "
                    f"right {right:.3f} ({self.seconds:.0f} s)",
                    flush=True,
                )
                notes = []
            if step % 100 == 99:
                self.save(f"{self.check}-part.pt")
        self.save(f"{self.check}.pt")

    def _step(self, batch: Batch, share: float, step: int) -> tuple[float, float, float]:
        pool = self.pools[batch.pool]
        assert pool.labels is not None
        text = self.model.model.language_model
        seen = encode_images(self.model.model.visual, torch.from_numpy(pool.images[batch.rows]))
        dense = self.heads.loss(seen, torch.from_numpy(pool.planes[batch.rows]))
        hidden = read_image(text, seen, self.before, torch.tensor([self.before.shape[1]]), self.after)
        logits = hidden @ text.embed_tokens.weight.T
        target = self.answers[torch.from_numpy(pool.labels[batch.rows])]
        answer = F.cross_entropy(logits, target)
        (answer + self.recipe["adapter"]["dense"] * dense).backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.param_groups[0]["lr"] = self.recipe["adapter"]["lr"] * cosine * min(1.0, (step + 1) / WARM_UP)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return dense.item(), answer.item(), _share(logits, target)


def _share(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(-1) == target).float().mean().item()


def train_adapters(rank: int, recipe: dict[str, Any], work: Path, checks: list[str]) -> None:
    """Process `rank` trains the adapter of `checks[rank]` on `work/base` and writes `work/<check>.pt`."""
    check = checks[rank]
    if not (work / f"{check}.pt").exists():
        fit = Fit(recipe, work, check)
        fit.load()
        fit.train()
