"""Load a base model once in a given precision, and share it between scorers.

Loads safetensors only and runs no remote code. 4 and 8 bit use bitsandbytes and leave the vision tower and the output
head in bf16 (double quantisation and bf16 compute as in QLoRA, arXiv 2305.14314). They save memory, not time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from scanfleet.models.adapters.card import Adapter, read_adapter
from scanfleet.models.adapters.settings import SETTINGS
from scanfleet.models.errors import ModelInvalid, one_line, unreadable
from scanfleet.models.families import Family, family_of
from scanfleet.models.inputs.processing import VisionProcessor, load_processor
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.inputs.sources import Checkpoint, is_pocket, locate
from scanfleet.models.network.activated import ActivatedLora, Stack, activated_lora, invokes, watch
from scanfleet.models.network.load import Precision, device_named, load_network
from scanfleet.models.network.lock import SharedLock
from scanfleet.models.network.lora import Place, changes, load_lora, put_in, take_out
from scanfleet.models.network.merging import Merger, bypass, reason_not_merged
from scanfleet.models.network.pooling import watch_inputs
from scanfleet.models.types import Order, Question

__all__ = ["BaseModel", "Precision", "load_base"]


class BaseModel:
    """A loaded checkpoint with its adapters.

    Several scorers share one base, and several threads may run it. Forwards under one adapter run at the same time. A
    switch to another adapter waits for them, so that no forward runs half switched. Only the active adapter has its
    modules in the network, so none depends on which others are loaded. Where the weights allow it, it is merged into
    them (`models.network.merging`). Activated LoRAs need no switch: they act in forwards of the base alone
    (`models.network.activated`).
    """

    merges = True  # False: keep every adapter beside the weights; set it before the first one is loaded

    def __init__(
        self, *, network: Any, processor: VisionProcessor, checkpoint: Checkpoint, family: Family, precision: Precision
    ) -> None:
        self.network = network  # the transformers model; the active adapter's modules are in it
        self.processor = processor
        self.checkpoint = checkpoint
        self.family = family
        self.precision = precision
        self.device: torch.device = network.device
        self._lock = SharedLock()
        self._switching = threading.Lock()
        self.unmerged: dict[str, str] = {}  # loaded adapters that stay beside the weights -> reason
        self._active: str | None = None
        self._settled = True  # False: a switch failed, so the active adapter is unknown
        self.loaded: dict[str, list[Place]] = {}  # adapter -> where its modules go
        self.heads: dict[str, bytes] = {}  # of loaded adapters that have one
        self.activated: dict[str, ActivatedLora] = {}  # loaded adapters that act behind the image alone
        self.with_own_tower: set[str] = set()  # loaded adapters that change the vision tower or its projector
        self._merger = Merger()
        self.pools = watch_inputs(network, family)  # whether the mean of an image's tokens can be had

    @property
    def n_features(self) -> int:
        """The width of the last hidden state."""
        return int(self.network.get_output_embeddings().weight.shape[-1])

    @property
    def order(self) -> Order:
        """What the base learnt to read first.

        Vendors train with the image first (QwenLM/Qwen3-VL#1053); the built-in model learnt the other order.
        """
        return "instruction-first" if is_pocket(self.checkpoint) else "image-first"

    @contextmanager
    def using(self, adapter_sha256: str | None) -> Iterator[Any]:
        """Yield the network with one loaded adapter active.

        Other threads may use the same adapter at the same time. Blocks must not be nested.

        Args:
            adapter_sha256: the adapter's digest; None: the base alone, without any LoRA module. The same under an
                activated LoRA, and under a head without one.

        Raises:
            ModelInvalid: the adapter is not loaded.
        """
        if adapter_sha256 not in self.loaded and self.holds(adapter_sha256):
            adapter_sha256 = None
        with self._lock.shared(adapter_sha256):
            with self._switching:  # the first thread switches
                self._activate(adapter_sha256)
            yield self.network

    def _activate(self, adapter_sha256: str | None) -> None:
        self.require(adapter_sha256)
        if adapter_sha256 != self._active or not self._settled:
            self._switch(adapter_sha256)

    def holds(self, adapter_sha256: str | None) -> bool:
        """Return whether an adapter is loaded."""
        return any(adapter_sha256 in held for held in (self.loaded, self.heads, self.activated))

    def require(self, adapter_sha256: str | None) -> None:
        """Raise ModelInvalid unless an adapter is loaded, or None for the base alone."""
        if adapter_sha256 is not None and not self.holds(adapter_sha256):
            raise ModelInvalid(f"adapter {adapter_sha256[:12]}… is not loaded; create its scorer again")

    def acting(self, adapter_sha256: str | None, turn: Turn) -> Stack | None:
        """Return the adapter for forwards over a prompt; None unless it is an activated LoRA that this invokes."""
        found = self.activated.get(adapter_sha256 or "")
        return Stack(adapters=[found]) if found is not None and invokes(found.invocation, turn) else None

    def release(self, adapter_sha256: str) -> None:
        """Remove an adapter from memory, for adapters that were replaced. Its scorers stop working."""
        with self._lock.exclusive():
            if adapter_sha256 in self.loaded:
                self._switch(None)
                del self.loaded[adapter_sha256]
                self.unmerged.pop(adapter_sha256, None)
                if not self.loaded:
                    self._merger.forget()
            self.heads.pop(adapter_sha256, None)
            self.activated.pop(adapter_sha256, None)
            self.with_own_tower.discard(adapter_sha256)

    def _switch(self, adapter_sha256: str | None) -> None:
        self._settled = False
        merged = adapter_sha256 is not None and adapter_sha256 not in self.unmerged
        take_out(self.network)
        if adapter_sha256 is not None:
            put_in(self.loaded[adapter_sha256])
        self._merger.switch(self.network, adapter_sha256 if merged else None)
        self._active, self._settled = adapter_sha256, True

    def load_adapter(self, folder: Path, question: Question) -> str:
        adapter = read_adapter(folder)
        card = adapter.card
        if card.base_revision != self.checkpoint.revision:
            raise ModelInvalid(
                f"{folder} was trained on {card.base_model} at {card.base_revision}, not on "
                f"{self.checkpoint.name} at {self.checkpoint.revision}; load that base or train again"
            )
        if not card.answers(question):
            raise ModelInvalid(
                f"{folder} was trained for another question than {question.name!r}; use it with its own check"
            )
        digest = card.weights_sha256
        with self._lock.exclusive():
            if adapter.head is not None:
                self.heads[digest] = adapter.head
            invocation = None if adapter.lora is None else adapter.lora.alora_invocation_tokens
            if invocation is not None:
                self._load_activated(adapter, digest, invocation, card.asked(question))
            elif adapter.lora is not None and digest not in self.loaded:
                self._switch(None)  # fully trained modules start from the base's own weights
                try:
                    load_lora(self.network, adapter, name=digest)
                    self._note_form(digest)
                    if changes(self.network, self.family.vision):
                        self.with_own_tower.add(digest)
                finally:
                    places = take_out(self.network)
                self.loaded[digest] = places
        return digest

    def _load_activated(self, adapter: Adapter, digest: str, invocation: tuple[int, ...], question: Question) -> None:
        where = str(adapter.folder)
        if not invokes(invocation, self.processor.prompt(question).turn):
            raise ModelInvalid(
                f"{where}/{SETTINGS}: its alora_invocation_tokens are not those with which question "
                f"{question.name!r} begins behind the image; train it again for this check"
            )
        if digest in self.activated:
            return
        self._switch(None)
        try:
            load_lora(self.network, adapter, name=digest)
            if changes(self.network, self.family.vision):
                raise ModelInvalid(f"{where}: an activated LoRA acts behind the image, but this one adapts the tower")
        finally:
            places = take_out(self.network)
        self.activated[digest] = activated_lora(places, name=digest, invocation=invocation, where=where)
        for place in places:
            watch(place.plain)

    def _note_form(self, digest: str) -> None:
        reason = reason_not_merged(self.network, digest) if self.merges else "merging is off for this base"
        if reason is None:
            bypass(self.network)
        else:
            self.unmerged[digest] = reason


def load_base(
    model: str, *, revision: str | None = None, precision: Precision | Literal["auto"] = "auto", device: str = "auto"
) -> BaseModel:
    """Load a base model.

    Args:
        model: "pocket", a local folder or a hub id "owner/name".
        revision: hub commit, tag or branch; for a folder, the "sha256:..." that it must have.
        precision: "fp32", "bf16", "nf4", "int8" or "auto", which is bf16 on CUDA and fp32 elsewhere (most CPUs only
            emulate bf16: five times slower, M).
        device: "auto" (CUDA if available), "cpu", "cuda" or "cuda:1".

    Returns:
        The loaded base, without adapters.

    Raises:
        ModelInvalid: the model is unknown or broken, or its family or the precision is not supported.
        ModelUnavailable: the hub cannot be reached, or the device is out of memory.
    """
    device = device_named(device)
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") else "fp32"
    if precision not in get_args(Precision):
        known = ", ".join(("auto", *get_args(Precision)))
        raise ModelInvalid(f"precision {precision!r} is unknown; choose one of {known}")
    checkpoint = locate(model, revision=revision)
    family = family_of(_model_type(checkpoint.folder), name=model)
    family.check_precision(precision)
    processor = load_processor(checkpoint.folder, family)
    if processor.thinks_first():
        raise ModelInvalid(f"{model} thinks aloud first: take its -Instruct checkpoint, which answers at once")
    network = load_network(checkpoint.folder, family, precision, device)
    return BaseModel(network=network, processor=processor, checkpoint=checkpoint, family=family, precision=precision)


def _model_type(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(str(folder / "config.json"), error) from error
    except ValueError as error:
        raise ModelInvalid(f"{folder / 'config.json'} is not JSON: {one_line(error)}") from error
    model_type: str | None = config.get("model_type")
    return model_type
