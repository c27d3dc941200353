"""What the forwards of a training read: the frozen vision tower's output, computed once and kept on disk, or pixels.

The tower's output (with Qwen3-VL's deepstack features) is asked of the family's own `get_image_features` and handed
back to its forward as `mm_encoder_outputs`, through the same rows, tokens and positions as in serving.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors

from models.errors import ImageUnsuitable
from models.families import ImageReader, PreparedImage
from models.loading import BaseModel
from models.processing import Rows, VisionProcessor
from models.prompts import Turn
from models.training.checkpoint import write_whole
from models.training.plan import Draw
from models.training.samples import Samples

CHUNK = 16  # images that go through the tower together, and into one file
MEMORY = 256 * 2**20  # bytes that are kept in memory besides
COMPUTED_BECAUSE = {
    "instructblip": "its Q-Former reads the instruction with the image",
    "phi4_multimodal": "its tower is part of the embedding of all tokens",
}
LISTED, STACKED = "listed", "stacked"  # forms in which a family gives the tower's output
Tell = Callable[[], None]
Features = dict[str, torch.Tensor]


class Source(Protocol):
    """Images by their draws, as the inputs of a forward."""

    def fill(self, samples: Samples, draws: Sequence[Draw], tell: Tell) -> dict[Draw, int]:
        """Make them ready; returns the number of tokens of each, without those that the model cannot take."""
        ...

    def rows(self, samples: Samples, draws: Sequence[Draw], turn: Turn) -> Rows: ...


class Computed:
    """Pixels, prepared anew where memory does not hold them; the tower runs in every forward."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._held = Bounded(MEMORY)

    def fill(self, samples: Samples, draws: Sequence[Draw], tell: Tell) -> dict[Draw, int]:
        sizes: dict[Draw, int] = {}
        for draw in draws:
            try:
                sizes[draw] = len(self._prepared(samples, draw).tokens)
            except ImageUnsuitable:
                continue
            tell()
        return sizes

    def rows(self, samples: Samples, draws: Sequence[Draw], turn: Turn) -> Rows:
        base = self._base
        images = [self._prepared(samples, draw) for draw in draws]
        return base.processor.rows(turn, images, device=base.device, dtype=base.network.dtype)

    def _prepared(self, samples: Samples, draw: Draw) -> PreparedImage:
        name = samples.name(draw)
        image: PreparedImage | None = self._held.get(name)
        if image is None:
            image = samples.prepared(draw)
            self._held.put(name, image, image.pixels.nbytes)
        return image


class Bounded:
    """Values by name, the least recently used dropped when their bytes pass a limit."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, name: str) -> Any:
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: str, value: Any, size: int) -> None:
        self._values[name] = (value, size)
        self._bytes += size
        while self._bytes > self._limit and len(self._values) > 1:
            self._bytes -= self._values.popitem(last=False)[1][1]


class Kept:
    """The tower's output by file: safetensors in a folder, `CHUNK` images in each, named by what is in it."""

    def __init__(self, base: BaseModel, folder: Path) -> None:
        self._base, self._folder = base, folder
        reader = base.processor.reader
        self._processor = VisionProcessor(
            tokenizer=base.processor.tokenizer, reader=_KeptReader(reader), chat_template=base.processor.chat_template
        )
        self._where: dict[str, tuple[Path, int]] = {}
        self._images: dict[str, PreparedImage] = {}
        self._held = Bounded(MEMORY)
        self.n_computed = 0

    def fill(self, samples: Samples, draws: Sequence[Draw], tell: Tell) -> dict[Draw, int]:
        """Run the tower over what no file holds yet."""
        self._folder.mkdir(parents=True, exist_ok=True)
        names = {draw: samples.name(draw) for draw in draws}
        missing = [draw for draw in draws if names[draw] not in self._where]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            path = self._folder / f"{self._digest([names[draw] for draw in chunk])}.safetensors"
            if not path.exists():
                self._compute(samples, chunk, path)
            self._note(path)
            tell()
        return {draw: len(self._images[name].tokens) for draw, name in names.items() if name in self._images}

    def rows(self, samples: Samples, draws: Sequence[Draw], turn: Turn) -> Rows:
        base = self._base
        images = [self._image(samples.name(draw)) for draw in draws]
        return self._processor.rows(turn, images, device=base.device, dtype=base.network.dtype)

    @property
    def bytes_on_disk(self) -> int:
        return sum(path.stat().st_size for path in {path for path, _ in self._where.values()})

    def _digest(self, names: Iterable[str]) -> str:
        base = self._base
        what = [base.checkpoint.revision, base.precision, str(base.network.dtype), *names]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _compute(self, samples: Samples, draws: Sequence[Draw], path: Path) -> None:
        prepared: list[PreparedImage] = []
        items: list[dict[str, Any]] = []
        for draw in draws:
            try:
                prepared.append(samples.prepared(draw))
            except ImageUnsuitable:
                continue
            items.append({"name": samples.name(draw), **_described(prepared[-1])})
        found = image_features(self._base, prepared) if prepared else []
        self.n_computed += len(found)
        tensors = {f"{number}.{key}": value for number, one in enumerate(found) for key, value in one.items()}
        write_whole(path, save_tensors(tensors, metadata={"items": json.dumps(items)}))

    def _note(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            items = json.loads(file.metadata()["items"])
        for number, item in enumerate(items):
            self._where[item["name"]] = path, number
            self._images[item["name"]] = _image(item)

    def _image(self, name: str) -> PreparedImage:
        features = self._held.get(name)
        if features is None:
            features = self._read(name)
            self._held.put(name, features, sum(value.nbytes for value in features.values()))
        image = self._images[name]
        return PreparedImage(**{**vars(image), "extra": features})

    def _read(self, name: str) -> Features:
        path, number = self._where[name]
        with safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if key.startswith(f"{number}.")]  # noqa: SIM118 - no mapping
            return {key.split(".", 1)[1]: file.get_tensor(key) for key in keys}


def _described(image: PreparedImage) -> dict[str, Any]:
    runs = [[token, len(list(run))] for token, run in itertools.groupby(image.tokens)]
    sizes = {"original_size": image.original_size, "resized_size": image.resized_size}
    return {"tokens": runs, "visual_tokens": image.visual_tokens, "grid": image.grid, **sizes}


def _image(item: Mapping[str, Any]) -> PreparedImage:
    return PreparedImage(
        pixels=torch.empty(0, dtype=torch.uint8),
        tokens=tuple(token for token, count in item["tokens"] for _ in range(count)),
        visual_tokens=item["visual_tokens"],
        grid=tuple(item["grid"]),
        original_size=tuple(item["original_size"]),
        resized_size=tuple(item["resized_size"]),
    )


class _KeptReader(ImageReader):
    """A reader whose images are what the tower made of them, in `PreparedImage.extra`."""

    def __init__(self, reader: ImageReader) -> None:
        self._reader = reader

    def prepare(self, image: Any, *, max_pixels: int, min_pixels: int) -> PreparedImage:
        return self._reader.prepare(image, max_pixels=max_pixels, min_pixels=min_pixels)

    def positions(self, *, before: int, images: Sequence[PreparedImage], width: int) -> torch.Tensor:
        return self._reader.positions(before=before, images=images, width=width)

    def stack(self, images: Sequence[PreparedImage], *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """mm_encoder_outputs, as the network's own forward takes them in the place of pixels."""
        return {"mm_encoder_outputs": {"image": joined([image.extra for image in images], device, dtype)}}


@torch.no_grad()
def image_features(base: BaseModel, images: Sequence[PreparedImage]) -> list[Features]:
    """What the tower and the projector make of each image: pieces of the output, and "deepN" of each deepstack layer.

    A family gives one piece an image or one a tile, in a list or stacked.
    """
    inputs = base.processor.reader.stack(images, device=base.device, dtype=base.network.dtype)
    out = base.network.base_model.get_image_features(**inputs, return_dict=True)
    pooled = out.pooler_output
    layers = {STACKED if isinstance(pooled, torch.Tensor) else LISTED: pooled}
    layers |= {f"deep{number}": layer for number, layer in enumerate(vars(out).get("deepstack_features") or ())}
    found: list[Features] = [{} for _ in images]
    for key, pieces in layers.items():
        counts = [1 if len(pieces) == len(images) else len(image.pixels) for image in images]
        assert sum(counts) == len(pieces)
        at = 0
        for features, count in zip(found, counts, strict=True):
            for piece in range(count):
                features[f"{key}.{piece}"] = pieces[at + piece].cpu().contiguous()
            at += count
    return found


def joined(images: Sequence[Features], device: torch.device, dtype: torch.dtype) -> SimpleNamespace:
    """The parts of several images as one output of `get_image_features`."""

    def pieces(layer: str) -> list[torch.Tensor]:
        return [
            features[f"{layer}.{piece}"].to(device, dtype)
            for features in images
            for piece in range(sum(key.startswith(f"{layer}.") for key in features))
        ]

    deep = sorted({key.split(".")[0] for key in images[0] if key.startswith("deep")}, key=lambda key: int(key[4:]))
    listed = pieces(LISTED)
    return SimpleNamespace(
        pooler_output=listed or torch.stack(pieces(STACKED)), deepstack_features=[pieces(layer) for layer in deep]
    )
