"""Train the base: a dense loss on the vision tower's tokens, and questions answered by a letter.

The dense loss predicts the attributes of every 32 x 32 px cell. An answer carries only one or two bits per image, which
train a vision tower from scratch far too slowly. The dense heads are thrown away afterwards.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, ascii_uppercase, digits
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from scanfleet.models.pocket.scenes.pretraining import PLANES, TEXT_PLANES, TrainingQuestion
from tools.pocket.architecture import new_model
from tools.pocket.data import Pool, make_pool
from tools.pocket.forward import VisionFeatures, encode_images, read_image
from tools.pocket.optimiser import Muon
from tools.pocket.parallel import average_gradients


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of training at one image size (width, height).

    Attributes:
        batch: images per process.
        jpeg: share of JPEG files.
        dense: weight of the dense loss beside that of the answers.
        text: weight of the text planes in it (letters are the finest detail, and learnt last).
        asked: share of a batch with a question.
        look: False: the vision tower is frozen, and the language model alone learns to read it.
    """

    size: tuple[int, int]
    images: int
    steps: int
    batch: int
    lr: float
    end: float
    jpeg: float = 0.5
    dense: float = 20.0
    text: float = 3.0
    asked: float = 0.4
    look: bool = True
    seed: int = 0  # 0: the base seed plus the number of the stage


def stages_of(recipe: dict[str, Any]) -> list[Stage]:
    return [Stage(**{**stage, "size": tuple(stage["size"])}) for stage in recipe["base"]["stages"]]


def stage_pool(recipe: dict[str, Any], work: Path, number: int, processes: int = 1) -> Pool:
    """Return the images of a stage; generate them if they are missing."""
    stage = stages_of(recipe)[number]
    seed, folder = stage.seed or recipe["base"]["seed"] + number, work / "pools"
    return make_pool(
        folder, "looking", seed=seed, count=stage.images, size=stage.size, jpeg=stage.jpeg, processes=processes
    )


class QuestionBatcher:
    """Renders questions exactly as `models.inputs.prompts`, without probing for codes each time."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        pairs = [first + second for first in ascii_uppercase[:4] for second in ascii_uppercase]
        self.codes = [*ascii_letters, *digits, *pairs]
        self.ids = {code: tokenizer.convert_tokens_to_ids(code) for code in self.codes}
        self.after = torch.tensor(
            tokenizer.encode("<|vision_end|><|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
        )

    def menu_codes(self, rng: np.random.Generator, count: int) -> list[str]:
        """Return menu codes, each of which is sometimes the answer.

        Mostly they are A, B, C; sometimes they start at a later letter, or are any codes.
        """
        kind = rng.random()
        if kind < 0.5:
            return list(ascii_uppercase[:count])
        if kind < 0.85:
            start = int(rng.integers(0, 7))
            return list(ascii_uppercase[start : start + count])
        return [self.codes[i] for i in rng.choice(len(self.codes), count, replace=False)]

    def batch(self, rng: np.random.Generator, questions: list[TrainingQuestion]) -> tuple[Tensor, Tensor, Tensor]:
        """Return left-padded ids [batch, tokens], their lengths [batch], and the answers' token ids [batch]."""
        codes = [self.menu_codes(rng, len(question.options)) for question in questions]
        texts = [turn_text(question, own) for question, own in zip(questions, codes, strict=True)]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self.tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            ids[i, -len(row) :] = torch.tensor(row)
        return (
            ids,
            lengths,
            torch.tensor([self.ids[own[question.answer]] for question, own in zip(questions, codes, strict=True)]),
        )


def turn_text(question: TrainingQuestion, codes: list[str]) -> str:
    """Return the turn up to the image."""
    menu = [f"{code}) {option}" for code, option in zip(codes, question.options, strict=True)]
    return "<|im_start|>user\n" + "\n".join([question.prompt, *menu, "Answer with the letter."]) + "<|vision_start|>"


class Heads(nn.Module):
    """Linear readers of the attributes, one on the merged tokens and one on each deepstack feature."""

    def __init__(self, width: int, deep: int, planes: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(nn.Linear(width, planes) for _ in range(1 + deep))

    def loss(self, seen: VisionFeatures, planes: Tensor, text_weight: float = 1.0) -> Tensor:
        """planes: (B, rows, columns, K) uint8; the first planes, those of text, may weigh more."""
        target = planes.float().flatten(1, 2) / 255
        weight = torch.ones(target.shape[-1])
        weight[: len(TEXT_PLANES)] = text_weight
        per = [
            F.binary_cross_entropy_with_logits(reader(x), target, weight=weight)
            for reader, x in zip(self.readers, (seen.merged, *seen.deep), strict=True)
        ]
        return torch.stack(per).mean()


WARM_UP = 60  # steps, in the first stage


def rate(number: int, step: int, stage: Stage) -> float:
    """Down in a straight line from lr to end, after a warm-up at the very beginning."""
    warm = min(1.0, (step + 1) / WARM_UP) if number == 0 else 1.0
    return warm * (stage.lr + (stage.end - stage.lr) * step / stage.steps)


class Run:
    """One process's half of a base training run, resumable from `work/base.pt`."""

    def __init__(self, rank: int, recipe: dict[str, Any], work: Path) -> None:
        self.rank, self.recipe, self.work = rank, recipe, work
        self.stages = stages_of(recipe)
        self.model = new_model(work / "base" if rank == 0 else work / f"scratch{rank}", recipe["seed"]).train()
        from transformers import AutoTokenizer

        self.batcher = QuestionBatcher(
            AutoTokenizer.from_pretrained(work / ("base" if rank == 0 else f"scratch{rank}"))
        )
        vision = self.model.config.vision_config
        self.heads = Heads(vision.out_hidden_size, len(vision.deepstack_visual_indexes), len(PLANES))
        self.params = [*self.model.parameters(), *self.heads.parameters()]
        matrices, rest = self._split()
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=1e-3, decay=0.05),
            torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.at = (0, 0)  # stage, step
        self.seconds = 0.0

    def _split(self) -> tuple[list[Tensor], list[Tensor]]:
        """Hidden matrices for Muon; tables, the patch kernel, large merger matrices, vectors and heads for AdamW."""
        matrices: list[Tensor] = []
        rest: list[Tensor] = list(self.heads.parameters())
        for name, p in self.model.named_parameters():
            hidden = p.ndim == 2 and "embed" not in name and min(p.shape) <= 128
            (matrices if hidden else rest).append(p)
        return matrices, rest

    def load(self) -> None:
        path = self.work / "base.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.at, self.seconds = tuple(state["at"]), state["seconds"]

    def save(self) -> None:
        if self.rank != 0:
            return
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "at": list(self.at),
            "seconds": self.seconds,
        }
        torch.save(state, self.work / "base.pt.new")
        (self.work / "base.pt.new").replace(self.work / "base.pt")

    def train(self) -> None:
        """Run the remaining stages; checkpoints every 100 steps."""
        for number in range(self.at[0], len(self.stages)):
            stage = self.stages[number]
            pool = stage_pool(self.recipe, self.work, number)
            started, notes = time.monotonic(), []
            for step in range(self.at[1] if number == self.at[0] else 0, stage.steps):
                notes.append(self._step(stage, pool, number, step))
                if step % 50 == 49:
                    self._tell(number, step, notes, time.monotonic() - started)
                    notes = []
                if step % 100 == 99:
                    self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                    self.at = (number, step + 1)
                    self.save()
            self.seconds += time.monotonic() - started
            self.at = (number + 1, 0)
            self.save()

    def _step(self, stage: Stage, pool: Pool, number: int, step: int) -> tuple[float, float, float]:
        rng = np.random.default_rng([self.recipe["seed"], number, step, self.rank])
        rows = np.sort(rng.integers(0, len(pool), stage.batch))
        rows = rows[rng.permutation(stage.batch)]
        with torch.set_grad_enabled(stage.look):
            seen = encode_images(self.model.model.visual, torch.from_numpy(pool.images[rows]))
        dense = self.heads.loss(seen, torch.from_numpy(pool.planes[rows]), stage.text)
        asked = max(1, int(stage.batch * stage.asked))
        questions = [pool.questions[row][rng.integers(len(pool.questions[row]))] for row in rows[:asked]]
        ids, lengths, answers = self.batcher.batch(rng, questions)
        part = VisionFeatures(merged=seen.merged[:asked], deep=tuple(x[:asked] for x in seen.deep), grid=seen.grid)
        hidden = read_image(self.model.model.language_model, part, ids, lengths, self.batcher.after)
        logits = hidden @ self.model.model.language_model.embed_tokens.weight.T
        answer = F.cross_entropy(logits, answers)
        (answer + stage.dense * dense if stage.look else answer).backward()  # type: ignore[no-untyped-call]
        average_gradients(self.params)
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate(number, step, stage)
            optimiser.step()
            optimiser.zero_grad()
        right = (logits.argmax(-1) == answers).float().mean()
        return dense.item(), answer.item(), right.item()

    def _tell(self, number: int, step: int, notes: list[tuple[float, float, float]], seconds: float) -> None:
        if self.rank == 0:
            dense, answer, right = np.mean(notes, 0)
            print(
                f"base stage {number} step {step + 1}: dense {dense:.4f} answer {answer:.3f} right {right:.3f} "
                f"({seconds + self.seconds:.0f} s)",
                flush=True,
            )


def train_base(rank: int, recipe: dict[str, Any], work: Path) -> None:
    """Train (or go on training) the base and write it to `work/base` in float32 and to `work/weights` in bf16."""
    run = Run(rank, recipe, work)
    run.load()
    run.train()
    if rank == 0:
        write_weights(run, work)


def write_weights(run: Run, work: Path) -> None:
    """Write bf16 weights, and `base` with the same rounded numbers: adapters train on what is served."""
    model = run.model.eval()
    for p in model.parameters():
        p.data = p.data.bfloat16().float()
    model.save_pretrained(work / "base")
    (work / "base.json").write_text(json.dumps({"seconds": round(run.seconds), "stages": run.recipe["base"]}))
