"""A file that has lost a part is a failure, or it is the pictures it was; it is never quietly another one."""

import os
from typing import Any

import numpy as np
import pytest

from scanfleet.errors import ImageError
from scanfleet.images.decoding import decode_frames
from scanfleet.images.types import FrameChoice
from tests.fuzz.losses import lossy, whole_files
from tests.fuzz.test_fuzz_images import REASONS

N_FILES = int(os.environ.get("FUZZ_LOSSES", "100"))  # of each format
N_SLOW_FILES = 10_000
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
MAX_PIXELS = 1_000_000
CHOICE = FrameChoice(24, "mixed")  # all of them
NEAR = 32  # levels
MOST = 0.01  # of the pixels may be further away
# Losses in a thousand that nothing in the file tells of: the codes behind a lost part are valid, and as many.
UNSEEN = {
    **dict.fromkeys(("jpeg", "jpeg grey", "jpeg cmyk"), 50),
    **dict.fromkeys(("jpeg progressive", "tiff jpeg", "tiff packbits", "webp", "gif"), 10),
    **dict.fromkeys(("mpo", "pdf", "dicom jpeg"), 50),  # JPEGs in them
    **dict.fromkeys(("mp4", "mov", "webp lossless frames"), 1),
    **dict.fromkeys(("gif frames", "webp frames", "dicom rle"), 10),
}


def pictures(data: bytes) -> "list[np.ndarray[Any, Any]]":
    choice = decode_frames(data, max_pixels=MAX_PIXELS, frames=CHOICE)
    return [np.asarray(decoded.image).astype(int) for decoded in choice]


def alike(one: "np.ndarray[Any, Any]", other: "np.ndarray[Any, Any]") -> bool:
    return one.shape == other.shape and bool((np.abs(other - one).max(-1) > NEAR).mean() <= MOST)


def quiet_losses(name: str, n: int) -> list[int]:
    """The numbers of the losses that made other pictures, or fewer, without a failure."""
    data = whole_files()[name]
    sound = pictures(data)
    quiet, odd = [], []
    for number in range(FIRST, FIRST + n):
        try:
            found = pictures(lossy(data, number))
        except ImageError as error:
            if error.reason not in REASONS:
                odd.append(number)
            continue
        if len(found) != len(sound) or not all(map(alike, sound, found)):
            quiet.append(number)
    assert not odd
    return quiet


@pytest.mark.filterwarnings("ignore")  # as in a decoder process
@pytest.mark.parametrize("name", sorted(whole_files()))
@pytest.mark.parametrize("n", [N_FILES, pytest.param(N_SLOW_FILES, marks=pytest.mark.slow)])
def test_no_loss_is_quiet(name: str, n: int) -> None:
    quiet = quiet_losses(name, n)
    assert len(quiet) <= UNSEEN.get(name, 0) * n / 1000, (len(quiet), quiet[:20])
