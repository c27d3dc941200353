"""Files of labels as other tools write them."""

from typing import Any

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<image id="0" name="a.png" width="200" height="100">
<box label="gun" source="manual" occluded="1" xtl="20.0" ytl="10.0" xbr="60.0" ybr="30.0" z_order="0">
<attribute name="material">steel</attribute></box>
<polygon label="knife" points="100,10;120,50;90,40"/></image>
<image id="1" name="b.png" width="200" height="100"></image>
</annotations>
"""


def detection(*boxes: dict[str, Any], uri: str = "a.png", human: str = "yes", **more: Any) -> dict[str, Any]:
    """Return a line of Ground Truth. boxes: none: a gun at 10 20, 30 wide and 40 high."""
    listed = list(boxes) or [{"class_id": 1, "left": 10, "top": 20, "width": 30, "height": 40}]
    return {
        "source-ref": uri,
        "job": {"image_size": [{"width": 200, "height": 100, "depth": 3}], "annotations": listed} | more,
        "job-metadata": {
            "objects": [{"confidence": 0.9} for _ in listed],
            "class-map": {"0": "knife", "1": "gun"},
            "type": "groundtruth/object-detection",
            "human-annotated": human,
        },
    }


def classified(name: str, label: str | None, *, uri: str = "a.png", human: str = "yes") -> dict[str, Any]:
    """Return a line with one class. label: None: the job failed."""
    kind = {"type": "groundtruth/image-classification", "human-annotated": human}
    if label is None:
        return {"source-ref": uri, f"{name}-metadata": kind | {"failure-reason": "ClientError"}}
    return {"source-ref": uri, name: 1, f"{name}-metadata": kind | {"class-name": label, "confidence": 1}}


def rectangle(label: str, **more: Any) -> dict[str, Any]:
    """Return a region of JSON-MIN."""
    sides = {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0}
    return sides | {"original_width": 200, "original_height": 100, "rectanglelabels": [label]} | more


def row(image: str = "a.png", **more: Any) -> dict[str, Any]:
    """Return a row of JSON-MIN."""
    meta = {"annotator": 3, "annotation_id": 5, "created_at": "t", "updated_at": "t", "lead_time": 1.5}
    return {"id": 1, "image": image} | meta | more
