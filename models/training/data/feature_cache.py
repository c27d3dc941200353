"""Tensors computed once per image, by the image's name: in safetensors files, and the latest ones in memory."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as save_tensors

from scanfleet.models.errors import ImageUnsuitable
from scanfleet.models.families import PreparedImage
from scanfleet.models.files import write_whole
from scanfleet.models.training.data.sampler import SampleId
from scanfleet.models.training.data.samples import Samples

CHUNK = 16  # images that are computed together and share a file
MEMORY = 256 * 2**20  # bytes of values in memory

OnRead = Callable[[], None]
Features = dict[str, torch.Tensor]


class Bounded:
    """Values by name, up to a limit in bytes; the least recently used are dropped."""

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, name: str) -> Any:
        """Return a value; None if it is absent."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: str, value: Any, size: int) -> None:
        """Store a value of `size` bytes."""
        self._values[name] = (value, size)
        self._bytes += size
        while self._bytes > self._limit and len(self._values) > 1:
            self._bytes -= self._values.popitem(last=False)[1][1]


class FeatureCache:
    """Features of images, computed once for each identity and name.

    Files are complete or absent. Each holds a fixed list of images, so that those computed after an interruption are
    grouped, and rounded, as they would have been without it.

    Args:
        folder: Folder of the files.
        identity: Everything but the image that the features depend on.
        compute: Prepared images -> for each its features, such as `[visual tokens, hidden]`, on the host.

    Attributes:
        n_computed: Images computed by this object.
    """

    def __init__(
        self, folder: Path, identity: Sequence[str], compute: Callable[[Sequence[PreparedImage]], list[Features]]
    ) -> None:
        self._folder, self._identity, self._compute = folder, list(identity), compute
        self._where: dict[str, tuple[Path, int]] = {}
        self._images: dict[str, PreparedImage] = {}
        self._held = Bounded()
        self.n_computed = 0

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all files in use."""
        return sum(path.stat().st_size for path in {path for path, _ in self._where.values()})

    def fill(self, samples: Samples, sample_ids: Sequence[SampleId], on_read: OnRead) -> dict[SampleId, int]:
        """Compute what no file holds yet.

        Args:
            samples: Opens and prepares the images.
            sample_ids: Images to cache.
            on_read: Called after each file.

        Returns:
            Tokens of each image, without those that the model cannot take.

        Raises:
            OSError: A file cannot be written or read.
            Exception: Whatever opening an image raises.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        names = {sample_id: samples.name(sample_id) for sample_id in sample_ids}
        missing = [sample_id for sample_id in sample_ids if names[sample_id] not in self._where]
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            path = self._folder / f"{self._digest([names[sample_id] for sample_id in chunk])}.safetensors"
            if not path.exists():
                self._write(samples, chunk, path)
            self._note(path)
            on_read()
        return {sample_id: len(self._images[name].tokens) for sample_id, name in names.items() if name in self._images}

    def image(self, name: str) -> PreparedImage:
        """Return an image without pixels, its features in `extra`."""
        return PreparedImage(**{**vars(self._images[name]), "extra": self.features(name)})

    def features(self, name: str) -> Features:
        """Return the features of an image on the host, in the shapes that `compute` gave them.

        A head's "hidden" is `[hidden]`; a piece of the tower's output is `[visual tokens, hidden]`.
        """
        found: Features | None = self._held.get(name)
        if found is None:
            found = self._read(name)
            self._held.put(name, found, sum(value.nbytes for value in found.values()))
        return found

    def _digest(self, names: Sequence[str]) -> str:
        return hashlib.sha256(json.dumps([self._identity, names]).encode()).hexdigest()

    def _write(self, samples: Samples, sample_ids: Sequence[SampleId], path: Path) -> None:
        prepared: list[PreparedImage] = []
        items: list[dict[str, Any]] = []
        for sample_id in sample_ids:
            try:
                prepared.append(samples.prepared(sample_id))
            except ImageUnsuitable:
                continue
            items.append({"name": samples.name(sample_id), **_described(prepared[-1])})
        found = self._compute(prepared) if prepared else []
        self.n_computed += len(found)
        tensors = {f"{number}.{key}": value for number, one in enumerate(found) for key, value in one.items()}
        write_whole(path, save_tensors(tensors, metadata={"items": json.dumps(items)}))

    def _note(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            items = json.loads(file.metadata()["items"])
        for number, item in enumerate(items):
            self._where[item["name"]] = path, number
            self._images[item["name"]] = _image(item)

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
