"""Where the time of scoring goes, from workers' measurements: the bottleneck, and how to remove it. Pure.

The record of a batch, and of a worker since its start, are sums by name; those of several add up:

    fetch, decode, prepare   seconds of stage threads: eight threads have eight in one wall-clock second
    threads                  seconds of stage threads that there were
    wait                     seconds of images: from prepared to the start of its forward
    device                   seconds of forwards; several streams have several in one wall-clock second
    boxes                    seconds of the device beside them, for finding boxes in flagged images
    explaining               likewise, for explaining them
    pointing                 likewise, for finding the region of a crop
    under_way                wall-clock seconds of the worker with batches under way, shared among them
    idle                     of these, without work for the device (the mean over its streams)
    write                    seconds of transactions that wrote results; in a worker's record only
    forwards, scored         number of forwards, and of images answered in them, in first passes
    tokens, padding          visual tokens of those forwards, and the share of them that is padding
    first_tokens             visual tokens of first passes, without padding
    frames, frame_tokens     of these, rows and visual tokens of pictures beyond the first of each file
    again, again_tokens      images with a crop pass, and visual tokens of all crop passes, pointing included
    again_rows               rows of crop passes that were answered in forwards: an image may have several
    capped                   images that were due and were not, because the check's max_extra was spent
    again_diffuse, again_whole, again_enough    likewise, for the other reasons of `scanfleet.checks.crop_result`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THREAD_STAGES = ("fetch", "decode", "prepare")
SECONDS = (*THREAD_STAGES, "threads", "wait", "device", "boxes", "explaining", "pointing", "under_way", "idle", "write")
SKIPPED = {"cap": "capped", "diffuse": "again_diffuse", "whole": "again_whole", "enough": "again_enough"}  # by reason
COUNTS = (
    *("forwards", "scored", "tokens", "padding", "first_tokens", "frames", "frame_tokens"),
    *("again", "again_tokens", "again_rows", *SKIPPED.values()),
)
NAMES = (*SECONDS, *COUNTS)

STARVED = 0.15  # idle for a larger share: the device is not the bottleneck
BUSY = 0.5  # stage threads busy for a smaller share of their time: they are not the bottleneck

ADVICE = {
    "device": "more or faster devices with a worker each, or a check with fewer pixels",
    "fetch": "more fetch_threads, or workers nearer to the store",
    "decode": "more cores, or more workers on other machines; more fetch_threads as long as cores are free",
    "prepare": "more cores, or more workers on other machines",
    "batches": "more batches_in_flight; if the database is slow to answer, workers nearer to it",
}


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Sums by name (see the module docstring), of a batch, a worker or a scan."""

    sums: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return float(self.sums.get(name) or 0.0)

    def since(self, earlier: StageTimes) -> StageTimes:
        """Return the difference to an earlier reading of the same sums."""
        return StageTimes(sums={name: self[name] - earlier[name] for name in NAMES})

    @property
    def idle_share(self) -> float | None:
        """The share of the time with batches under way in which the device was idle. None: nothing was under way."""
        return _share(self["idle"], self["under_way"])

    @property
    def padding_share(self) -> float | None:
        """The share of padding among all visual tokens of forwards."""
        return _share(self["padding"], self["tokens"])

    @property
    def again_share(self) -> float | None:
        """Visual tokens of crop passes, as a share of those of first passes."""
        return _share(self["again_tokens"], self["first_tokens"])

    @property
    def skipped(self) -> dict[str, int]:
        """Images whose crop pass was due and skipped, by reason; reasons without images are left out."""
        found = {why: round(self[name]) for why, name in SKIPPED.items()}
        return {why: n for why, n in found.items() if n}

    @property
    def due(self) -> int:
        """Images whose crop pass was due, without those that failed before it."""
        return round(self["again"]) + sum(self.skipped.values())

    @property
    def images_per_forward(self) -> float | None:
        """Images, further pictures of their files, and crops: forwards hold the rows of all of them."""
        return _share(self["scored"] + self["frames"] + self["again_rows"], self["forwards"])

    @property
    def frame_share(self) -> float | None:
        """Visual tokens of the pictures beyond the first of each file, as a share of those of the first ones."""
        return _share(self["frame_tokens"], self["first_tokens"] - self["frame_tokens"])

    @property
    def images_per_second(self) -> float | None:
        """Images scored per second in which a worker had batches under way."""
        return _share(self["scored"], self["under_way"])

    @property
    def starved(self) -> bool:
        """True if the device was idle for too long, in whole percents as people see them."""
        return self.idle_share is not None and round(self.idle_share, 2) > STARVED

    @property
    def bottleneck(self) -> str | None:
        """A key of ADVICE: the stage that the others wait for. None: nothing was scored."""
        if self.idle_share is None or not self["forwards"]:
            return None
        if not self.starved:
            return "device"
        if sum(self[stage] for stage in THREAD_STAGES) < BUSY * self["threads"]:
            return "batches"
        return max(THREAD_STAGES, key=lambda stage: self[stage])

    def record(self) -> dict[str, Any]:
        """For JSON and logs."""
        return {
            "images_per_worker_second": _rounded(self.images_per_second, 2),
            "device_idle_share": _rounded(self.idle_share),
            "bottleneck": self.bottleneck,
            "worker_seconds": round(self["under_way"], 3),
            "device_seconds": round(self["device"], 3),
            "box_seconds": round(self["boxes"], 3),
            "explaining_seconds": round(self["explaining"], 3),
            "thread_seconds": {stage: round(self[stage], 3) for stage in THREAD_STAGES},
            "threads_available_seconds": round(self["threads"], 3),
            "image_wait_seconds": round(self["wait"], 3),
            "forwards": round(self["forwards"]),
            "images_per_forward": _rounded(self.images_per_forward, 2),
            "padding_share": _rounded(self.padding_share),
            "further_frames": round(self["frames"]),
            "frame_tokens": round(self["frame_tokens"]),
            "frame_token_share": _rounded(self.frame_share),
            "second_looks_due": self.due,
            "looked_again": round(self["again"]),
            "not_looked_again": self.skipped,
            "not_looked_again_for_the_cap": round(self["capped"]),
            "pointing_seconds": round(self["pointing"], 3),
            "extra_tokens": round(self["again_tokens"]),
            "extra_token_share": _rounded(self.again_share),
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
