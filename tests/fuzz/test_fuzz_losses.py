"""A file that has lost a part is a failure, or it is the picture it was; it is never quietly another one."""

import os

import numpy as np
import pytest

from scanfleet.errors import ImageError
from scanfleet.images import decode
from tests.fuzz.losses import lossy, whole_files
from tests.fuzz.test_fuzz_images import REASONS

N_FILES = int(os.environ.get("FUZZ_LOSSES", "250"))  # of each format
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
MAX_PIXELS = 1_000_000
NEAR = 32  # levels
MOST = 0.01  # of the pixels may be further away
# Losses in a thousand that nothing in the file tells of: the codes behind a lost part are valid, and as many.
UNSEEN = {
    **dict.fromkeys(("jpeg", "jpeg grey", "jpeg cmyk"), 50),
    **dict.fromkeys(("jpeg progressive", "tiff jpeg", "tiff packbits", "webp", "gif"), 10),
}


@pytest.mark.filterwarnings("ignore")  # as in a decoder process
@pytest.mark.parametrize("name", sorted(whole_files()))
def test_no_loss_is_quiet(name: str) -> None:
    data = whole_files()[name]
    sound = np.asarray(decode(data, max_pixels=MAX_PIXELS).image).astype(int)
    quiet, odd = [], []
    for number in range(FIRST, FIRST + N_FILES):
        try:
            image = decode(lossy(data, number), max_pixels=MAX_PIXELS).image
        except ImageError as error:
            if error.reason not in REASONS:
                odd.append(number)
            continue
        other = np.asarray(image).astype(int)
        if other.shape != sound.shape or (np.abs(other - sound).max(-1) > NEAR).mean() > MOST:
            quiet.append(number)
    assert not odd
    assert len(quiet) <= UNSEEN.get(name, 0) * N_FILES / 1000, (len(quiet), quiet[:20])
