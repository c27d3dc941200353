"""The training that people write today: transformers' Trainer, PEFT, and a collator. Nothing of `models.training`.

Every epoch reads every image anew: processor, vision tower, the instruction of every row, and logits over the whole
vocabulary at every position, as `AutoModelForImageTextToText` computes them from `labels`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler
from transformers import AutoModelForImageTextToText, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from scanfleet.models.adapters.settings import LoraSettings
from scanfleet.models.network.base import BaseModel
from scanfleet.models.network.lora import add_lora
from scanfleet.models.types import Question

IMAGE = "<|image_pad|>"
NOT_LEARNT = -100  # what transformers' loss leaves out


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seconds and mean loss of each epoch."""

    seconds: tuple[float, ...]
    losses: tuple[float, ...]


class Rows(Dataset[dict[str, Any]]):
    """(image file, label index) pairs."""

    def __init__(self, rows: Sequence[tuple[Path, int]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        path, label = self._rows[at]
        return {"path": path, "label": label}


class Collator:
    """Opens, resizes, cuts and tokenises; the answer's letter is the only token that is learnt."""

    def __init__(self, base: BaseModel, question: Question) -> None:
        prompt = base.processor.prompt(question)
        self._text = prompt.turn.text
        self._answers = [code.answer_id for code in prompt.codes]
        self._processor = base.processor.reader.image_processor
        self._tokenizer = base.processor.tokenizer
        self._image_id = base.processor.reader.image_token_id
        self._size = {"shortest_edge": question.min_pixels, "longest_edge": question.max_pixels}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        images = [Image.open(row["path"]).convert("RGB") for row in rows]
        pixels = self._processor(images=images, size=self._size, return_tensors="pt")
        counts = (pixels["image_grid_thw"].prod(-1) // self._processor.merge_size**2).tolist()
        texts = [self._text.replace(IMAGE, IMAGE * count) for count in counts]
        text = self._tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        answer = torch.tensor([[self._answers[row["label"]]] for row in rows])
        ids = torch.cat((text["input_ids"], answer), dim=1)
        mask = torch.cat((text["attention_mask"], torch.ones_like(answer)), dim=1)
        labels = torch.full_like(ids, NOT_LEARNT)
        labels[:, -1] = answer[:, 0]
        types = (ids == self._image_id).long()
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, "labels": labels, **pixels}


class Order(Sampler[int]):
    """A given order of rows, epoch after epoch."""

    def __init__(self, epochs: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self._epochs = iter(epochs)
        self._n = len(epochs[0])

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        return iter(next(self._epochs))


class Clock(TrainerCallback):
    """Start and end of each epoch, and the mean loss of its steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._start, self._steps = 0.0, []  # type: tuple[float, list[float]]

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self._start, self._steps = time.perf_counter(), []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self._steps.append(logs["loss"])

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        self.losses.append(sum(self._steps) / max(1, len(self._steps)))


class _Trainer(Trainer):
    order: Order

    def _get_train_sampler(self, *_: Any) -> Order:
        return self.order


@dataclass(frozen=True, kw_only=True)
class Course:
    """Settings that both trainings share; epochs: the order of rows in each; rate: of a step, as a share of lr."""

    lora: LoraSettings
    lr: float
    weight_decay: float
    clip: float
    batch: int
    seed: int
    epochs: Sequence[Sequence[int]]
    rate: Callable[[int], float]


def train(base: BaseModel, question: Question, rows: Sequence[tuple[Path, int]], course: Course, *, work: Path) -> Run:
    """Train a fresh copy of the base's checkpoint."""
    network = AutoModelForImageTextToText.from_pretrained(
        base.checkpoint.folder, local_files_only=True, dtype=base.network.dtype, device_map={"": base.device}
    )
    network.requires_grad_(False)
    torch.manual_seed(course.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = add_lora(network, course.lora, name="default")
        optimiser = torch.optim.AdamW(
            [value for value in network.parameters() if value.requires_grad],
            lr=course.lr,
            weight_decay=course.weight_decay,
        )
        clock = Clock()
        trainer = _Trainer(
            model=network,
            args=_arguments(course, work),
            train_dataset=Rows(rows),
            data_collator=Collator(base, question),
            callbacks=[clock],
            optimizers=(optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, course.rate)),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.order = Order(course.epochs)
        trainer.train()
    return Run(seconds=tuple(clock.seconds), losses=tuple(clock.losses))


def _arguments(course: Course, work: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=len(course.epochs),
        per_device_train_batch_size=course.batch,
        max_grad_norm=course.clip,
        seed=course.seed,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
