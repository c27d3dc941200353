"""Says where the time of a scan went. Pure."""

from __future__ import annotations

from scanfleet.stats.stage_times import ADVICE, THREAD_STAGES, StageTimes

BOTTLENECKS = {
    "device": "the device is the bottleneck",
    "fetch": "fetching is the bottleneck",
    "decode": "decoding is the bottleneck",
    "prepare": "preparing is the bottleneck",
    "batches": "too few batches were in progress",
}
SKIPPED = {
    "cap": "beyond max_extra",
    "diffuse": "diffuse",
    "whole": "with the whole image as region",
    "enough": "clear enough in the first pass",
}


def times_in_words(times: StageTimes) -> list[str]:
    """Return the conclusion, then the figures, one a line; nothing if none were measured."""
    if times.bottleneck is None or times.idle_share is None:
        return []
    idle = f"the device was idle {times.idle_share:.0%} of the time".replace("%", " %")
    lines = [f"{idle}: {BOTTLENECKS[times.bottleneck]} ({ADVICE[times.bottleneck]})"]
    lines += [_workers(times), _threads(times), _forwards(times)]
    if times["frames"]:
        lines.append(_frames(times))
    if times["again_tokens"] or times.due:
        lines.append(_crops(times))
    return lines


def _workers(times: StageTimes) -> str:
    rate = f"{times.images_per_second or 0:.1f} images/s per worker"
    return f"workers had batches for {times['under_way']:.1f} s: {rate}"


def _threads(times: StageTimes) -> str:
    parts = ", ".join(f"{stage} {times[stage]:.1f} s" for stage in THREAD_STAGES)
    used = sum(times[stage] for stage in THREAD_STAGES)
    return f"stage threads were busy for {used:.1f} s of {times['threads']:.1f} s: {parts}"


def _forwards(times: StageTimes) -> str:
    further = [word for word, n in (("further frames", times["frames"]), ("crops", times["again_rows"])) if n]
    rows = " and ".join(["images", *further]) if len(further) < 2 else "images, further frames and crops"
    each = f"{times.images_per_forward or 0:.1f} {rows} each"
    padding = f"{times.padding_share or 0:.1%} of the tokens padding".replace("%", " %")
    return f"{times['forwards']:.0f} forwards took {times['device']:.1f} s, some in parallel: {each}, {padding}"


def _frames(times: StageTimes) -> str:
    share = f"{times.frame_share or 0:.1%}".replace("%", " %")
    tokens = f"{times['frame_tokens']:,.0f} visual tokens, {share} of those of one picture a file"
    return f"frames: {times['frames']:,.0f} further pictures of files with several took {tokens}"


def _crops(times: StageTimes) -> str:
    given, skipped = round(times["again"]), times.skipped
    reasons = ", ".join(f"{n:,} {SKIPPED[why]}" for why, n in skipped.items())
    counts = f"{times.due:,} due, {given:,} read" + (f" ({reasons})" if reasons else "")
    share = f"{times.again_share or 0:.1%}".replace("%", " %")
    subject = "they took" if given else "finding the regions took"
    tokens = f"; {subject} {times['again_tokens']:,.0f} visual tokens, {share} of the first pass"
    return f"crops: {counts if times.due else 'none finished'}{tokens if times['again_tokens'] else ''}"
