"""Copies of a picture have near hashes, different pictures do not, and the index finds all near pairs."""

import io
import random

import pytest
from PIL import Image

from scanfleet.models.pocket.scenes import baggage, overlay
from scanfleet.perceptual_hash import BITS, FEW, NEAR_BITS, HashIndex, distance, phash

SCENES = {"overlay": overlay, "baggage": baggage}
N = 40


def saved(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BICUBIC)


def number(image: Image.Image) -> int:
    return int(phash(image), 16)


@pytest.mark.parametrize("check", SCENES)
def test_copies_look_alike_and_different_pictures_do_not(check: str) -> None:
    images = [SCENES[check].draw(3, index, 128, 128).image for index in range(N)]
    hashes = [number(image) for image in images]
    n_copies = n_near = 0
    for image, digits in zip(images, hashes, strict=True):
        for copy in (saved(image, 90), saved(image, 60), resized(image, 0.5), saved(resized(image, 1.7), 75)):
            n_copies += 1
            n_near += distance(digits, number(copy)) <= NEAR_BITS
    assert n_near >= 0.97 * n_copies
    pairs = [distance(hashes[one], hashes[other]) for one in range(N) for other in range(one)]
    assert min(pairs) > NEAR_BITS


def test_a_hash_is_sixteen_digits_for_any_picture() -> None:
    for picture in (Image.new("RGB", (1, 1)), Image.new("L", (900, 7), 255), Image.new("RGB", (64, 64), "red")):
        assert phash(picture) == "0" * 16
    assert len(phash(overlay.draw(1, 1, 128, 128).image)) == 16


@pytest.mark.parametrize("n_origins", [2, 20])
def test_the_index_finds_what_comparing_all_with_all_finds(n_origins: int) -> None:
    dice = random.Random(7)
    hashes = [dice.getrandbits(BITS) for _ in range(n_origins)]
    for origin in tuple(hashes):  # neighbours at every distance up to a little over the limit
        for n_flips in range(NEAR_BITS + 3):
            hashes.append(origin ^ sum(1 << bit for bit in dice.sample(range(BITS), n_flips)))
    index = HashIndex()
    for digits in hashes:
        index.add(f"{digits:016x}", f"{digits:016x}")
    assert len(index) == len(hashes)
    assert (len(index) <= FEW) == (n_origins == 2)
    for digits in hashes:
        expected = sorted(f"{other:016x}" for other in hashes if distance(digits, other) <= NEAR_BITS)
        assert sorted(index.near(f"{digits:016x}")) == expected
