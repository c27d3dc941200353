"""Writes labels as tasks of Label Studio, with an annotation each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any

from scanfleet.db.labels.labels import CurrentLabel
from scanfleet.producer.labels.writing.folders import ELSEWHERE
from scanfleet.producer.reports.labelstudio import IMAGE, address_of, results_of, write_tasks

COLUMNS = ("who", "group", "note", "drawn")  # of the task


def write_labelstudio(labels: Iterable[CurrentLabel], file: IO[bytes], root: str) -> tuple[int, Counter[str]]:
    """Write one task per image. Returns their number, and what is left out. root: the document root for files."""
    left_out: Counter[str] = Counter()

    def tasks() -> Iterator[dict[str, Any]]:
        for one in labels:
            address = address_of(one.uri, os.fsencode(root))
            if address is None:
                left_out[ELSEWHERE] += 1
                continue
            given = {name: getattr(one, name) for name in COLUMNS if getattr(one, name) is not None}
            results = results_of(one.label, one.boxes, (one.width, one.height), one.attributes)
            yield {"id": one.label_id, "data": {IMAGE: address, **given}, "annotations": [{"result": results}]}

    return write_tasks(tasks(), file), left_out
