"""The base model of a worker: a real one, or the fake one of fleet tests. Torch is imported on loading only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from PIL import Image

from scanfleet.config.endpoints import PREFIX
from scanfleet.config.extras import install_hint
from scanfleet.config.model_names import FAKE_MODELS
from scanfleet.config.settings import Settings
from scanfleet.errors import BadSettings, DeviceUnavailable, StoreUnavailable
from scanfleet.models import factory
from scanfleet.models.crops.policy import CropPolicy
from scanfleet.models.errors import ModelInvalid
from scanfleet.models.fake import FakeCropReader, FakeExplainer, FakeFinder, FakePrepared, FakeScorer, fake_identity
from scanfleet.models.inputs.sources import locate
from scanfleet.models.network.cpu.allocator import keep_freed_memory
from scanfleet.models.types import (
    CropReader,
    Explainer,
    Finder,
    ModelIdentity,
    Order,
    Question,
    Reading,
    Scorer,
    SeveralScorer,
)
from scanfleet.worker.runtime.weights import fetch_weights, in_bucket
from scanfleet.worker.scoring.error_mapping import (
    MappedCropReader,
    MappedExplainer,
    MappedFinder,
    MappedScorer,
    MappedSeveral,
    naming_model,
)

if TYPE_CHECKING:
    from scanfleet.models.network.base import BaseModel, Precision

FAKE_SECONDS = "SCANFLEET_FAKE_SECONDS"  # per image: makes the fake slow enough to be killed while scoring
FAKE_POISON = "SCANFLEET_FAKE_POISON"  # "red,green,blue": an image with this upper left pixel kills the process


class Model(Protocol):
    """Weights in memory, and the scorers made from them."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def device(self) -> str: ...

    @property
    def streams(self) -> int:
        """The number of threads that may score at once: one on a GPU."""
        ...

    @property
    def one_by_one(self) -> bool:
        """True if each image is a forward of its own."""
        ...

    @property
    def order(self) -> Order:
        """What the base alone reads first where a check leaves it open."""
        ...

    @property
    def rotates(self) -> bool:
        """True if the base alone reads its menu in several orders (`models.scoring.rotated`)."""
        ...

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        """Return a scorer of the base alone, or of the adapter in a folder. Raises ModelInvalid, ModelUnavailable.

        policy: of the crop pass that follows; its readings then contain what the crop pass needs.
        """
        ...

    def together(self, scorers: Sequence[Scorer]) -> SeveralScorer | None:
        """Return how to answer the questions of these scorers in one pass; None: the model answers one at a time."""
        ...

    def plain(self, question: Question) -> Scorer:
        """Return the base alone, asked in the question's own order: what adapters are trained from and compared with.

        Raises ModelInvalid, ModelUnavailable.
        """
        ...

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> CropReader:
        """Return the reader of the crop pass. Raises ModelInvalid if the model does not support the policy."""
        ...

    def finder(self, question: Question, adapter: Path | None) -> Finder:
        """Return the finder of boxes, on the same weights. Raises ModelInvalid if the model finds no boxes."""
        ...

    def explainer(self, question: Question, adapter: Path | None, *, tokens: int) -> Explainer:
        """Return the explainer of flags, on the same weights. Raises ModelInvalid if the model writes no text.

        tokens: the most of an explanation.
        """
        ...

    def release(self, adapter_sha256: str) -> None:
        """Remove an adapter from memory. The caller no longer uses anything with it."""
        ...


def load_model(settings: Settings) -> Model:
    """Load the model in the settings. Raises BadSettings (a person must act) or DeviceUnavailable (try again)."""
    if settings.model in FAKE_MODELS:
        return FakeModel(
            settings.model,
            seconds_per_image=float(os.environ.get(FAKE_SECONDS, "0")),
            poison=tuple(int(part) for part in os.environ.get(FAKE_POISON, "").split(",") if part),
        )
    try:
        if settings.model.startswith(PREFIX):
            from scanfleet.worker.scoring.endpoint import load_endpoint

            return load_endpoint(settings)
        name = settings.model
        source = str(fetch_weights(settings)) if in_bucket(name) else name
        with naming_model():
            locate(source, revision=settings.model_revision)  # a wrong name is reported before torch is imported
            from scanfleet.models.network.base import load_base

            base = load_base(
                source,
                revision=settings.model_revision,
                precision=cast("Precision", settings.precision),
                device=settings.device,
            )
        # Its folder differs from node to node; what it is called, and the digest of its files, do not.
        base.checkpoint = replace(base.checkpoint, name=name)
    except StoreUnavailable as error:
        raise DeviceUnavailable(f"model: {error}") from error
    except ImportError as error:
        raise BadSettings(f"this worker cannot load models ({error}): {install_hint('worker')}") from None
    return LoadedModel(base)


class FakeModel:
    """Scores by hashing pixels. It refuses adapters."""

    device = "none"
    streams = 1
    one_by_one = False
    order: Order = "instruction-first"
    rotates = False

    def __init__(self, name: str = "fake", *, seconds_per_image: float = 0.0, poison: tuple[int, ...] = ()) -> None:
        self.identity = fake_identity(name)
        self._seconds_per_image = seconds_per_image
        self._poison = poison

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        return cast("Scorer", self._scorer(question, adapter))

    def plain(self, question: Question) -> Scorer:
        return self.scorer(question, None)

    def _scorer(self, question: Question, adapter: Path | None) -> SlowFakeScorer:
        if adapter is not None:
            raise ModelInvalid("the fake model takes no adapter")
        return SlowFakeScorer(
            question=question,
            identity=self.identity,
            seconds_per_image=self._seconds_per_image,
            poison=self._poison,
        )

    def together(self, scorers: Sequence[Scorer]) -> SeveralScorer | None:
        return None

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> CropReader:
        crop_reader = FakeCropReader(scorer=self._scorer(question, adapter), pointed=policy.pointed, fuse=policy.fuse)
        return cast("CropReader", crop_reader)

    def finder(self, question: Question, adapter: Path | None) -> Finder:
        return cast("Finder", FakeFinder(question=question))

    def explainer(self, question: Question, adapter: Path | None, *, tokens: int) -> Explainer:
        return cast("Explainer", FakeExplainer())

    def release(self, adapter_sha256: str) -> None:
        """Do nothing: no adapter is ever loaded."""


class SlowFakeScorer(FakeScorer):
    """A FakeScorer that is slow, and whose process some images kill, as happens with real models."""

    def __init__(
        self, *, question: Question, identity: ModelIdentity, seconds_per_image: float, poison: tuple[int, ...] = ()
    ) -> None:
        super().__init__(question=question, identity=identity)
        self._seconds_per_image = seconds_per_image
        self._poison = poison
        self._lethal: set[bytes] = set()  # digests

    def prepare(self, image: Image.Image) -> FakePrepared:
        prepared = super().prepare(image)
        if self._poison and image.getpixel((0, 0)) == self._poison:
            self._lethal.add(prepared.digest)
        return prepared

    def score(self, prepared: Sequence[FakePrepared]) -> list[Reading]:
        if any(image.digest in self._lethal for image in prepared):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._seconds_per_image * len(prepared))
        return super().score(prepared)


class LoadedModel:
    """A `models.network.base.BaseModel` with errors that the fleet handles."""

    one_by_one = False
    rotates = True

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self.order = base.order
        self.device = str(base.device)
        self.streams = _streams(base)
        if base.device.type == "cpu":
            keep_freed_memory()
        self.identity = ModelIdentity(
            base_model=base.checkpoint.name,
            revision=base.checkpoint.revision,
            precision=base.precision,
            adapter_sha256=None,
        )

    def scorer(self, question: Question, adapter: Path | None, *, policy: CropPolicy | None = None) -> Scorer:
        return MappedScorer(factory.scorer(self._base, question, adapter, policy=policy, rotated=self.rotates))

    def plain(self, question: Question) -> Scorer:
        return MappedScorer(factory.scorer(self._base, question))

    def together(self, scorers: Sequence[Scorer]) -> SeveralScorer | None:
        plain = [cast("MappedScorer", scorer).mapped for scorer in scorers]
        return MappedSeveral(factory.together(self._base, plain))

    def crop_reader(self, question: Question, policy: CropPolicy, adapter: Path | None) -> CropReader:
        return MappedCropReader(factory.crop_reader(self._base, question, policy, adapter))

    def finder(self, question: Question, adapter: Path | None) -> Finder:
        return MappedFinder(factory.finder(self._base, question, adapter))

    def explainer(self, question: Question, adapter: Path | None, *, tokens: int) -> Explainer:
        return MappedExplainer(factory.explainer(self._base, question, adapter, max_new_tokens=tokens))

    def release(self, adapter_sha256: str) -> None:
        self._base.release(adapter_sha256)


def _streams(base: BaseModel) -> int:
    """Return how many forwards run at once.

    A CPU is shared with decoding, and a forward split over its cores waits for the one that is busy. So on a CPU each
    core gets a forward of its own.
    """
    import torch

    if base.device.type != "cpu" or base.precision not in ("fp32", "bf16"):
        return 1  # several forwards at once through bitsandbytes' layers are untested
    streams = torch.get_num_threads()
    torch.set_num_threads(1)
    return streams
