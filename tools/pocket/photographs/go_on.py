"""Train a shipped adapter further.

    python -m tools.pocket.photographs.go_on --check overlay --photographs DIR --work DIR

It starts from the adapter that is shipped, on the base that is shipped, and reads pools of its own: for the overlay
check half photographs, half generated pictures. The recipe's [more] part has every number. One thread and seeded
batches, so that a run, resumed or not, gives the same digits on the same machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from scanfleet.models.families import FAMILIES
from scanfleet.models.inputs.processing import load_processor
from scanfleet.models.network.lora import adapter_state
from scanfleet.models.pocket import folder
from scanfleet.models.pocket.questions import QUESTIONS
from scanfleet.models.pocket.recipe import load_recipe
from tools.pocket.adapt import NAME, prepare
from tools.pocket.base import Heads
from tools.pocket.data import Pool, make_pool
from tools.pocket.forward import VisionFeatures, encode_images, read_image
from tools.pocket.publish import publish_adapter

Rows = np.ndarray[Any, np.dtype[np.int64]]


def pool_of(part: dict[str, Any], work: Path, photographs: Path | None, processes: int = 1) -> Pool:
    """Return the pictures of one of the recipe's pools; draw them if they are missing."""
    size = (part["size"][0], part["size"][1])
    return make_pool(
        work / "pools", part["kind"], seed=part["seed"], count=part["images"], size=size,
        processes=processes, photographs=photographs,
    )  # fmt: skip


def schedule(seed: int, part: dict[str, Any], batch: int) -> list[tuple[int, Rows]]:
    """Return (pool, its rows) of every step: pools in the recipe's shares, each shuffled anew when it is used up."""
    rng = np.random.default_rng([seed, part["pools"][0]["seed"]])
    shares = np.array([pool["share"] for pool in part["pools"]], float)
    waiting: list[list[Rows]] = [[] for _ in shares]
    steps = []
    for number in rng.choice(len(shares), part["steps"], p=shares / shares.sum()):
        pool = part["pools"][number]
        size = max(4, round(batch * 128 * 128 / (pool["size"][0] * pool["size"][1])))
        if not waiting[number]:
            order = rng.permutation(pool["images"])
            waiting[number] = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        steps.append((int(number), waiting[number].pop()))
    return steps


def varied(rng: np.random.Generator, images: Tensor, planes: Tensor, part: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return pictures and planes after what changes no label: colours exchanged or inverted, or turned over."""
    if part.get("colours"):
        images = images.clone()
        for row in np.flatnonzero(rng.random(len(images)) < 0.4):
            images[row] = images[row][..., torch.from_numpy(rng.permutation(3))]
            if rng.random() < 0.3:
                images[row] = 255 - images[row]
    for axis in (1, 2):
        if part.get("flips") and rng.random() < 0.5:
            images, planes = images.flip(axis), planes.flip(axis)
    return images, planes


class More:
    """The further training of one adapter, resumable from `work/<check>-more.pt`."""

    def __init__(self, recipe: dict[str, Any], check: str, work: Path, photographs: Path | None) -> None:
        torch.manual_seed(recipe["seed"])
        self.recipe, self.check, self.work, self.part = recipe, check, work, recipe["more"][check]
        base = folder()
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
        self.wrapped = prepare(self.model, recipe)
        shipped = {k: v.float() for k, v in load_file(base / "adapters" / check / "adapter_model.safetensors").items()}
        set_peft_model_state_dict(self.wrapped, shipped, adapter_name=NAME)
        self.model.train()
        vision = self.model.config.vision_config
        self.heads = Heads(vision.out_hidden_size, len(vision.deepstack_visual_indexes), len(QUESTIONS[check].labels))
        self.lora = [p for p in self.model.parameters() if p.requires_grad]
        self.mean = [p.detach().clone() for p in self.lora]
        self.params = [*self.lora, *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(self.params, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        prompt = load_processor(base, FAMILIES["qwen3_vl"]).prompt(QUESTIONS[check])
        self.before, self.after = torch.tensor([prompt.turn.before]), torch.tensor(prompt.turn.after)
        self.answers = torch.tensor([code.answer_id for code in prompt.codes])
        self.pools = [pool_of(each, work, photographs) for each in self.part["pools"]]
        self.at, self.seconds = 0, 0.0

    def load(self) -> None:
        path = self.work / f"{self.check}-more.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            set_peft_model_state_dict(self.wrapped, state["lora"], adapter_name=NAME)
            self.heads.load_state_dict(state["heads"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.mean, self.at, self.seconds = state["mean"], state["at"], state["seconds"]

    def save(self, name: str, *, averaged: bool = False) -> None:
        """Write a checkpoint; `averaged`: the adapter is the running mean, as it is published."""
        kept = [p.detach().clone() for p in self.lora]
        if averaged:
            self._put(self.mean)
        state = {
            "lora": {key: value.detach().clone() for key, value in adapter_state(self.wrapped, NAME).items()},
            "heads": self.heads.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "mean": self.mean,
            "at": self.at,
            "seconds": self.seconds,
        }
        self._put(kept)
        torch.save(state, self.work / f"{name}.new")
        (self.work / f"{name}.new").replace(self.work / name)

    def _put(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(self.lora, values, strict=True):
                p.copy_(value)

    def train(self) -> None:
        """Run the remaining steps; a checkpoint and the mean so far every 100."""
        steps = schedule(self.recipe["seed"], self.part, self.recipe["adapter"]["batch"])
        notes, started = [], time.monotonic()
        for step in range(self.at, len(steps)):
            notes.append((steps[step][0], *self._step(step, *steps[step], step / len(steps))))
            if step % 50 == 49 or step + 1 == len(steps):
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                self.at = step + 1
                self._tell(notes, len(steps))
                notes = []
            if step % 100 == 99:
                self.save(f"{self.check}-more.pt")
                self.save(f"{self.check}-best.pt", averaged=True)
        self.save(f"{self.check}.pt", averaged=True)

    def _tell(self, notes: Sequence[tuple[float, ...]], steps: int) -> None:
        values = np.array(notes)
        photographs = np.array([self.part["pools"][int(n)]["kind"] != self.check for n in values[:, 0]])
        shown = "".join(
            f" {name} {values[which, 3].mean():.3f}"
            for name, which in (("right", ~photographs), ("on photographs", photographs))
            if which.any()
        )
        dense, answer = values[:, 1].mean(), values[:, 2].mean()
        print(
            f"{self.check} step {self.at}/{steps}: dense {dense:.4f} answer {answer:.3f}{shown} ({self.seconds:.0f} s)",
            flush=True,
        )

    def _step(self, step: int, number: int, rows: Rows, share: float) -> tuple[float, float, float]:
        pool, rng = self.pools[number], np.random.default_rng([self.recipe["seed"], step])
        assert pool.labels is not None
        images, planes = torch.from_numpy(pool.images[rows]), torch.from_numpy(pool.planes[rows])
        images, planes = varied(rng, images, planes, self.part)
        text, new = self.model.model.language_model, step < self.part["warm_up"]
        with torch.autocast("cpu", torch.bfloat16):
            seen = encode_images(self.model.model.visual, images)
            hidden = read_image(text, seen, self.before, torch.tensor([self.before.shape[1]]), self.after)
        # New heads learn first to read the tower as it is.
        merged, deep = seen.merged.float(), tuple(x.float() for x in seen.deep)
        if new:
            merged, deep = merged.detach(), tuple(x.detach() for x in deep)
        dense = self.heads.loss(VisionFeatures(merged=merged, deep=deep, grid=seen.grid), planes)
        logits = hidden.float() @ text.embed_tokens.weight.T
        target = self.answers[torch.from_numpy(pool.labels[rows])]
        answer = F.cross_entropy(logits, target)
        (answer + self.recipe["adapter"]["dense"] * dense).backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        cosine = 0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2
        self.optimiser.param_groups[0]["lr"] = self.part["lr"] * cosine * min(1.0, (step + 1) / self.part["warm_up"])
        self.optimiser.step()
        self.optimiser.zero_grad()
        keep = min(self.part["mean"], (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, p in zip(self.mean, self.lora, strict=True):
                mean.lerp_(p, 1 - keep)
        return dense.item(), answer.item(), (logits.argmax(-1) == target).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", required=True)
    parser.add_argument("--photographs", type=Path, help="the folder that tools.pocket.photographs.packages filled")
    parser.add_argument("--work", type=Path, required=True, help="folder for image pools and checkpoints (several GB)")
    parser.add_argument("--recipe", type=Path, help="another recipe file than the shipped one")
    parser.add_argument(
        "--out", type=Path, help="publish the adapter to these weights (the shipped ones: models/pocket/weights)"
    )
    parser.add_argument("--processes", type=int, default=1, help="for drawing the pools")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    if arguments.check not in recipe["more"]:
        parser.error(f"--check {arguments.check}: the recipe goes on with {', '.join(recipe['more'])}")
    torch.set_num_threads(1)
    for part in recipe["more"][arguments.check]["pools"]:
        pool_of(part, arguments.work, arguments.photographs, arguments.processes)
    more = More(recipe, arguments.check, arguments.work, arguments.photographs)
    more.load()
    more.train()
    if arguments.out:
        publish_adapter(recipe, arguments.work, arguments.out, arguments.check)


if __name__ == "__main__":
    main()
