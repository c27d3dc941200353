"""One LoRA adapter per check, on the frozen base: the only part of the pocket model that ever sees a check.

The vision tower is frozen, so what it sees of every image is computed once and reused in every epoch; the instruction
is shared by the whole batch and is read once per step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from models.adapters import LoraSettings
from models.lora import adapter_state, add_lora
from models.pocket.data import CHECKS, Pool, make_pool
from models.pocket.forward import Seen, read, see
from models.pocket.parallel import average_gradients
from models.pocket.questions import QUESTIONS
from models.prefill import LabelHead
from models.processing import load_processor
from models.prompts import Prompt

NAME = "pocket"  # of the adapter inside the PeftModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """What the frozen tower saw of one pool, half precision: merged (N, M, d), deep (L, N, M, d); labels (N,)."""

    merged: Tensor
    deep: Tensor
    grid: tuple[int, int]
    labels: Tensor

    def rows(self, rows: Tensor) -> Seen:
        return Seen(merged=self.merged[rows].float(), deep=tuple(d.float() for d in self.deep[:, rows]), grid=self.grid)


@torch.no_grad()
def look_at(visual: Any, images: np.ndarray[Any, np.dtype[np.uint8]], labels: Sequence[int]) -> Cache:
    """Run the frozen tower over a pool."""
    step = max(4, 64 * 128 * 128 // (images.shape[1] * images.shape[2]))
    seen = [see(visual, torch.from_numpy(np.array(images[i : i + step]))) for i in range(0, len(images), step)]
    return Cache(
        merged=torch.cat([s.merged.half() for s in seen]),
        deep=torch.stack([torch.cat(layer).half() for layer in zip(*(s.deep for s in seen), strict=True)]),
        grid=seen[0].grid,
        labels=torch.tensor(labels),
    )


def settings(recipe: dict[str, Any]) -> LoraSettings:
    part = recipe["adapter"]
    return LoraSettings(
        r=part["rank"], lora_alpha=float(part["alpha"]), lora_dropout=part["dropout"], target_modules=part["targets"]
    )


def prepare(model: Any, recipe: dict[str, Any]) -> Any:
    """Wrap the model with fresh LoRA modules; the counts prove that the vision tower is left alone."""
    wrapped = add_lora(model, settings(recipe), name=NAME)
    names = {key.split(".lora_")[0] for key in adapter_state(wrapped, NAME)}
    if len(names) != recipe["adapter"]["matches"] or any("visual" in name for name in names):
        raise RuntimeError(f"the LoRA targets match {len(names)} modules; expected {recipe['adapter']['matches']}")
    return wrapped


def instruction(prompt: Prompt) -> tuple[Tensor, Tensor, Tensor]:
    before = torch.tensor([prompt.turn.before])
    return before, torch.tensor([before.shape[1]]), torch.tensor(prompt.turn.after)


def train_adapter(rank: int, recipe: dict[str, Any], work: Path, check: str) -> None:
    """Train the adapter of `check` on `work/base`; rank 0 writes `work/<check>.pt` (LoRA tensors and seconds)."""
    if (work / f"{check}.pt").exists():
        return
    started = time.monotonic()
    model = Qwen3VLForConditionalGeneration.from_pretrained(work / "base", dtype=torch.float32)
    wrapped = prepare(model, recipe)
    prompt = load_processor(work / "base").prompt(QUESTIONS[check])
    caches = _caches(rank, recipe, work, check, model.model.visual)
    _fit(rank, recipe, model, prompt, caches, check)
    if rank == 0:
        state = {key: value.detach().clone() for key, value in adapter_state(wrapped, NAME).items()}
        torch.save({"lora": state, "seconds": time.monotonic() - started}, work / f"{check}.pt")


def adapter_pool(recipe: dict[str, Any], work: Path, check: str, number: int, processes: int = 1) -> Pool:
    """The images of one size that an adapter learns from, drawn now if they are not there yet."""
    part, seed = recipe["adapter"]["pools"][number], recipe["adapter"]["seeds"][check] + 10 * number
    size = (part["size"][0], part["size"][1])
    return make_pool(work / "pools", check, seed=seed, count=part["images"], size=size, processes=processes)


def _caches(rank: int, recipe: dict[str, Any], work: Path, check: str, visual: Any) -> list[Cache]:
    """This process's share of every pool, looked at."""
    out = []
    for number in range(len(recipe["adapter"]["pools"])):
        pool = adapter_pool(recipe, work, check, number)
        assert pool.labels is not None
        # Labels cycle with the index: blocks of ten keep them balanced in every process.
        mine = np.flatnonzero(np.arange(len(pool)) // 10 % recipe["processes"] == rank)
        out.append(look_at(visual, pool.images[mine], pool.labels[mine].tolist()))
    return out


def _schedule(recipe: dict[str, Any], caches: list[Cache]) -> list[tuple[int, Tensor]]:
    """(cache, rows) of every step: epochs reshuffled, sizes interleaved, smaller batches for larger images."""
    rng = torch.Generator().manual_seed(recipe["seed"])
    steps: list[tuple[int, Tensor]] = []
    for _ in range(recipe["adapter"]["epochs"]):
        epoch: list[tuple[int, Tensor]] = []
        for number, cache in enumerate(caches):
            batch = max(12, recipe["adapter"]["batch"] * 16 // (cache.grid[0] * cache.grid[1]))
            order = torch.randperm(len(cache.labels), generator=rng)
            epoch += [(number, rows) for rows in torch.split(order, batch) if len(rows) == batch]
        steps += [epoch[i] for i in torch.randperm(len(epoch), generator=rng).tolist()]
    return steps


def _fit(rank: int, recipe: dict[str, Any], model: Any, prompt: Prompt, caches: list[Cache], check: str) -> None:
    torch.manual_seed(recipe["seed"] + rank)
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=recipe["adapter"]["lr"], betas=(0.9, 0.98), weight_decay=0.01)
    before, lengths, after = instruction(prompt)
    answers = torch.tensor([code.answer_id for code in prompt.codes])
    text = model.model.language_model
    model.train()
    steps = _schedule(recipe, caches)
    notes, started = [], time.monotonic()
    for step, (number, rows) in enumerate(steps):
        hidden = read(text, caches[number].rows(rows), before, lengths, after)
        logits = hidden @ text.embed_tokens.weight.T
        target = answers[caches[number].labels[rows]]
        loss = F.cross_entropy(logits, target)
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(params)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        share = min(1.0, (step + 1) / 40) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / len(steps))) / 2)
        optimiser.param_groups[0]["lr"] = recipe["adapter"]["lr"] * share
        optimiser.step()
        optimiser.zero_grad()
        notes.append((loss.item(), (logits.argmax(-1) == target).float().mean().item()))
        if rank == 0 and step % 100 == 99:
            mean = np.mean(notes, 0)
            print(
                f"{check} step {step + 1}/{len(steps)}: loss {mean[0]:.3f} right {mean[1]:.3f} "
                f"({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            notes = []


@torch.no_grad()
def answer(model: Any, prompt: Prompt, cache: Cache, flags: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Label logits (N, K), margins (N,) and label mass (N,) of a looked-at pool, by the model as it stands."""
    head = LabelHead(
        weight=model.get_output_embeddings().weight, token_ids=[c.token_ids for c in prompt.codes], flags=flags
    )
    instruct, step = instruction(prompt), max(8, 2048 // (cache.grid[0] * cache.grid[1]))
    parts = [
        head(read(model.model.language_model, cache.rows(rows), *instruct))
        for rows in torch.split(torch.arange(len(cache.labels)), step)
    ]
    logits, margins, mass = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, margins, mass


def labels_of(check: str) -> tuple[str, ...]:
    labels: tuple[str, ...] = CHECKS[check].LABELS
    assert labels == QUESTIONS[check].labels
    return labels
