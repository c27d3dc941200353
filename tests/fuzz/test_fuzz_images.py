"""Twelve thousand damaged files through decoder children: each ends as pixels or as a failure with a reason."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import load_settings
from scanfleet.decoding.pool import Decoders
from scanfleet.errors import ImageError
from scanfleet.images import Enough
from tests.fuzz.damage import damaged, families, seeds

N_FILES = int(os.environ.get("FUZZ_FILES", "12000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
MEGABYTE = 1 << 20
MAX_PIXELS = 1_000_000
PORTION = 1000
FRAMES = FrameSettings(max=4)
N_OF_A_FORMAT = 10_000
# too_much_memory: a damaged header of a video may ask FFmpeg for more than the child has.
REASONS = {"empty", "not_an_image", "unsupported", "too_many_pixels", "truncated", "corrupt", "too_much_memory"}


ENOUGH = (None, Enough(pixels=300, short_side=1), Enough(pixels=20, short_side=4))  # of about 2,000 to 3,000 pixels


def outcome(pool: Decoders, number: int, files: tuple[bytes, ...] = ()) -> str:
    """ "decoded", or the reason of the failure. Every third file is decoded whole, the others as far as is enough."""
    enough = ENOUGH[number // len(files or seeds()) % len(ENOUGH)]
    try:
        decoded = pool.decode_frames(damaged(number, files), enough=enough, frames=FRAMES)
    except ImageError as error:
        return error.reason if error.stage == "decode" else f"{error.stage}: {error.reason}"
    assert 1 <= len(decoded) <= min(FRAMES.max, decoded[0].n_frames)
    for one in decoded:
        assert one.image.size == (one.width, one.height) or enough is not None
        assert one.image.width <= one.width
        assert one.image.height <= one.height
        assert one.image.mode == "RGB"
    assert sum(one.width * one.height for one in decoded) <= MAX_PIXELS
    return "decoded"


def peak_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def test_damaged_images(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path, max_image_pixels=MAX_PIXELS, max_image_bytes=MEGABYTE)
    pool = Decoders(settings, n_children=3)
    numbers = range(FIRST, FIRST + N_FILES)
    try:
        with ThreadPoolExecutor(4) as threads, capture_logs() as logs:
            whole = list(threads.map(pool.decode, seeds() * 5))
            assert len(whole) == 5 * len(seeds())  # undamaged, each of them is a picture
            before = psutil.Process().memory_info().rss
            start = time.perf_counter()
            outcomes: list[str] = []
            for first in range(0, N_FILES, PORTION):  # all at once, the futures themselves would fill the memory
                portion = numbers[first : first + PORTION]
                outcomes += threads.map(lambda number: outcome(pool, number), portion)
            seconds = time.perf_counter() - start
        growth = (psutil.Process().memory_info().rss - before) / MEGABYTE
        peaks = [peak_megabytes(pid) for pid in pool.pids]
    finally:
        pool.close()
    counts = Counter(outcomes)
    print(f"\n{len(outcomes)} files in {seconds:.1f} s: {dict(counts)}; children {peaks} MB, here {growth:+.0f} MB")  # noqa: T201
    odd = [number for number, what in zip(numbers, outcomes, strict=True) if what not in REASONS | {"decoded"}]
    assert not odd, f"files by these numbers ended oddly: {odd[:20]} ({counts})"
    assert min(counts["decoded"], counts["truncated"], counts["not_an_image"]) > N_FILES / 20  # of every kind enough
    assert not logs  # no child died
    assert growth < 100
    assert max(peaks) < 200


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(families()))
def test_damaged_files_of_a_format(tmp_path: Path, name: str) -> None:
    settings = load_settings(data_dir=tmp_path, max_image_pixels=MAX_PIXELS, max_image_bytes=MEGABYTE)
    files = families()[name]
    with Decoders(settings, n_children=2) as pool, ThreadPoolExecutor(3) as threads, capture_logs() as logs:
        numbers = range(FIRST, FIRST + N_OF_A_FORMAT)
        counts = Counter(threads.map(lambda number: outcome(pool, number, files), numbers))
    print(f"\n{name}: {dict(counts)}")  # noqa: T201
    assert counts.keys() <= REASONS | {"decoded"}
    assert counts["decoded"]
    assert not logs  # no child died
