"""Run one prompt under one adapter for relevance maps: the instruction once, then rows of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from scanfleet.models.families import PreparedImage
from scanfleet.models.inputs.prompts import Turn
from scanfleet.models.network.activated import acting_behind
from scanfleet.models.network.prefix import Prefix
from scanfleet.models.network.recording import recording

if TYPE_CHECKING:
    from scanfleet.models.inputs.processing import Rows
    from scanfleet.models.network.base import BaseModel
    from scanfleet.models.scoring.prefill import PrefillScorer


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedForward:
    """The network and inputs of one forward.

    Attributes:
        network: with the adapter active.
        rows: the inputs of the rows.
        prefix: the instruction's keys and values.
    """

    network: Any
    rows: Rows
    prefix: Prefix

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of a forward over the whole rows that keeps nothing."""
        ids = self.rows.inputs["input_ids"]
        return self.rows.inputs | self.prefix.inputs(ids.shape[1], ids.device)


class PromptRunner:
    """Runs a prompt under a scorer's adapter.

    Its output is the scorer's: the vocabulary, or the classes of its head.

    Args:
        base: the loaded base model.
        scorer: its adapter and output are used.
        turn: the rendered prompt.
    """

    def __init__(self, *, base: BaseModel, scorer: PrefillScorer, turn: Turn) -> None:
        self.base = base
        self.output = scorer.output
        self._adapter_sha256 = scorer.identity.adapter_sha256
        self._turn = turn
        self._prefix: Prefix | None = None
        self._acting = base.acting(scorer.identity.adapter_sha256, turn)

    @contextmanager
    def prepared(self, images: Sequence[PreparedImage]) -> Iterator[PreparedForward]:
        """Yield the network and inputs for a forward over these images.

        The calling thread must not use the network in another way inside the block.
        """
        with self.base.using(self._adapter_sha256) as network:
            if self._prefix is None:
                with torch.inference_mode(False), torch.no_grad():  # also for forwards that keep gradients
                    self._prefix = Prefix.of(network.base_model, self._turn.before)
            rows = self.base.processor.rows(self._turn, images, device=self.base.device, dtype=network.dtype)
            with acting_behind(self._acting, rows):
                yield PreparedForward(network=network, rows=rows, prefix=self._prefix)

    @torch.inference_mode()
    def attention(self, images: Sequence[PreparedImage], layers: Sequence[int]) -> list[NDArray[np.float32]]:
        """Compute the attention of the answer position in one prefill of all images.

        Args:
            images: one row each.
            layers: as in `models.network.attention.attention_modules`.

        Returns:
            [visual_tokens] fp32 per image, the mean over heads and layers.
        """
        with (
            self.prepared(images) as forward,
            recording(self.base.network, self.base.family, self.base.processor.reader, layers, forward.rows) as found,
        ):
            self.base.processor.reader.hidden(forward.network, forward.inputs)
        return [row for row in found if row is not None]
