"""Datasets as `datasets.Dataset.save_to_disk` writes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
Cell = dict[str, Any] | None

INFO = {
    "features": {
        "image": {"_type": "Image"},
        "label": {"names": ["none", "overlay"], "_type": "ClassLabel"},
        "note": {"dtype": "string", "_type": "Value"},
    }
}


def save(folder: Path, cells: Sequence[Cell], *, rows_per_batch: int = 3, **more: Any) -> Path:
    """Write one split. more: options of the stream."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "label": pa.array([number % 2 for number in range(len(cells))], pa.int64()),
        "image": pa.array(cells, IMAGE),
        "note": pa.array([f"note {number}" for number in range(len(cells))]),
        "thumb": pa.array([b"x"] * len(cells), pa.binary()),
    }
    table = pa.table(columns)
    name = "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(str(folder / name), table.schema, **more) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}], "_split": "train"}))
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    return folder / name
