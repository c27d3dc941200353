"""COCO: images, the boxes on them, and categories (cocodataset.org/#format-data), written in one pass."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import IO, Any


class CocoFile:
    """Annotations wait in a temporary file, and categories come last: each box's label has one, in constant memory.

    labels: the first categories; others are added as boxes name them. `close` ends the file, and closes no file.
    """

    def __init__(self, file: IO[bytes], labels: Iterable[str] = ()) -> None:
        self._file, self._annotations = file, tempfile.TemporaryFile()  # noqa: SIM115
        self._categories: dict[str, int] = {}
        self.n_images = self._n_boxes = 0
        self.add_labels(labels)
        file.write(b'{"images": [')

    def add_labels(self, labels: Iterable[str]) -> None:
        for label in labels:
            self._categories.setdefault(label, len(self._categories) + 1)

    def add(self, number: int, image: Mapping[str, Any], boxes: Iterable[Mapping[str, Any]]) -> None:
        """Add an image and its boxes: x0, y0, x1, y1 in pixels and label, perhaps score and attributes."""
        self.n_images += 1
        self._file.write(_item(self.n_images, {"id": number, **image}))
        for box in boxes:
            self._n_boxes += 1
            self._annotations.write(_item(self._n_boxes, self._annotation(number, box)))

    def _annotation(self, image: int, box: Mapping[str, Any]) -> dict[str, Any]:
        self.add_labels((box["label"],))
        width, height = round(box["x1"] - box["x0"], 2), round(box["y1"] - box["y0"], 2)
        return {name: box[name] for name in ("score", "attributes") if box.get(name) not in (None, {})} | {
            "id": self._n_boxes,
            "image_id": image,
            "category_id": self._categories[box["label"]],
            "bbox": [box["x0"], box["y0"], width, height],
            "area": round(width * height, 2),
            "iscrowd": 0,
        }

    def close(self) -> None:
        self._file.write(b'],\n"annotations": [')
        with self._annotations as annotations:
            annotations.seek(0)
            shutil.copyfileobj(annotations, self._file, 1 << 20)
        found = [{"id": number, "name": label} for label, number in self._categories.items()]
        self._file.write(f'],\n"categories": {json.dumps(found, ensure_ascii=False)}}}\n'.encode())


def _item(number: int, value: Mapping[str, Any]) -> bytes:
    return f"{',' if number > 1 else ''}\n{json.dumps(value, ensure_ascii=False, allow_nan=False)}".encode()
