"""Filters, samples and portions of a listing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scanfleet.db.scans.new_images import NewImage
from scanfleet.errors import RequestError
from scanfleet.producer.sources.base import Candidate
from scanfleet.producer.sources.filters import PAGE_LIMIT, Filters, pages, parse_sample, sample_key, take_sample


def candidates(n: int) -> list[Candidate]:
    return [Candidate(image=NewImage(uri=f"mem://a/{number}"), path=str(number)) for number in range(n)]


def sampled(items: list[Candidate], **filters: object) -> set[str]:
    return {item.image.uri for item in take_sample(items, Filters(**filters))}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        (Filters(), {"a.jpg", "B.PNG", "sub/c.webp", "sub/deep/d.jpg"}),
        (Filters(include=("*.md",)), {"readme.md"}),
        (Filters(include=("sub/*",)), {"sub/c.webp", "sub/deep/d.jpg"}),
        (Filters(include=("c.*", "a*")), {"a.jpg", "sub/c.webp"}),
        (Filters(exclude=("sub/deep/*",)), {"a.jpg", "B.PNG", "sub/c.webp"}),
        (Filters(exclude=("deep",)), {"a.jpg", "B.PNG", "sub/c.webp"}),
        (Filters(exclude=("deep/",)), {"a.jpg", "B.PNG", "sub/c.webp"}),
        (Filters(exclude=("./sub/deep/",)), {"a.jpg", "B.PNG", "sub/c.webp"}),
        (Filters(exclude=("*.jpg",)), {"B.PNG", "sub/c.webp"}),
        (Filters(include=("*",), exclude=("*.md",)), {"a.jpg", "B.PNG", "sub/c.webp", "sub/deep/d.jpg"}),
    ],
)
def test_globs_choose_by_path_or_name(filters: Filters, taken: set[str]) -> None:
    paths = ["a.jpg", "B.PNG", "readme.md", "sub/c.webp", "sub/deep/d.jpg"]
    assert {path for path in paths if filters.takes(path, sift_by_suffix=True)} == taken


def test_a_manifest_is_not_sifted_by_suffix() -> None:
    assert Filters().takes("picture-without-suffix", sift_by_suffix=False)
    assert not Filters().takes("picture-without-suffix", sift_by_suffix=True)


@given(path=st.text(alphabet="ab/.*", min_size=1, max_size=8), glob=st.text(alphabet="ab/*?", min_size=1, max_size=6))
def test_a_skipped_folder_holds_nothing_that_is_taken(path: str, glob: str) -> None:
    filters = Filters(include=("*",), exclude=(glob,))
    if filters.skips_folder(path):
        assert not filters.takes(f"{path}/x.jpg", sift_by_suffix=False)


def test_an_absolute_glob_is_matched_below_its_source_and_stays_in_the_identity() -> None:
    filters = Filters(exclude=("/data/a/sub/*", "/data/b/*"))
    below = filters.below("/data/a/")
    assert not below.takes("sub/c.jpg", sift_by_suffix=True)
    assert below.takes("d.jpg", sift_by_suffix=True)
    assert below.exclude[1] == "/data/b/*"
    assert filters.as_dict() == {"exclude": ["/data/a/sub/*", "/data/b/*"]}


@pytest.mark.parametrize("glob", ["/data/a/x.jpg", "./x.jpg"])
def test_an_anchored_glob_leaves_files_of_that_name_elsewhere(glob: str) -> None:
    below = Filters(exclude=(glob,)).below("/data/a/")
    assert not below.takes("x.jpg", sift_by_suffix=True)
    assert below.takes("sub/x.jpg", sift_by_suffix=True)


@pytest.mark.parametrize("glob", ["/data/a/thumbs", "./thumbs/"])
def test_an_anchored_folder_leaves_folders_of_that_name_elsewhere(glob: str) -> None:
    below = Filters(exclude=(glob,)).below("/data/a/")
    assert not below.takes("thumbs/x.jpg", sift_by_suffix=True)
    assert below.skips_folder("thumbs")
    assert below.takes("sub/thumbs/x.jpg", sift_by_suffix=True)


def test_unset_filters_leave_no_trace_in_the_identity_of_a_scan() -> None:
    assert Filters().as_dict() == {}
    assert Filters(seed=3).as_dict() == {}  # a seed without a sample chooses nothing
    assert Filters(sample=0.5, seed=3, limit=2).as_dict() == {"limit": 2, "sample": 0.5, "seed": 3}


@pytest.mark.parametrize("size", [1, 17, 99])
def test_a_sample_by_number_has_that_size_whatever_the_order(size: int) -> None:
    items = candidates(100)
    shuffled = random.Random(1).sample(items, len(items))
    assert len(sampled(items, sample=float(size))) == size
    assert sampled(items, sample=float(size)) == sampled(shuffled, sample=float(size))
    assert sampled(items, sample=float(size)) != sampled(items, sample=float(size), seed=1)


def test_a_sample_by_number_takes_the_smallest_keys_and_each_image_once() -> None:
    items = candidates(50)
    smallest = sorted((item.image.uri for item in items), key=lambda uri: sample_key(7, uri))[:10]
    assert sampled(items + items, sample=10.0, seed=7) == set(smallest)
    assert len(list(take_sample(items + items, Filters(sample=10.0, seed=7)))) == 10


def test_a_sample_larger_than_the_listing_is_the_listing() -> None:
    assert len(sampled(candidates(5), sample=10.0)) == 5


def test_a_fraction_is_near_its_share_and_grows_by_adding() -> None:
    items = candidates(20_000)
    fifth, half = sampled(items, sample=0.2), sampled(items, sample=0.5)
    assert 0.19 < len(fifth) / len(items) < 0.21
    assert fifth < half


def test_a_fraction_streams() -> None:
    def endless() -> object:
        number = 0
        while True:
            yield Candidate(image=NewImage(uri=f"mem://{number}"), path="x")
            number += 1

    stream = take_sample(endless(), Filters(sample=0.1))  # type: ignore[arg-type]
    assert next(stream).image.uri.startswith("mem://")


@pytest.mark.parametrize(("text", "value"), [("500", 500.0), ("0.05", 0.05), ("1", 1.0)])
def test_a_sample_is_a_number_or_a_fraction(text: str, value: float) -> None:
    assert parse_sample(text) == value


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "many", ""])
def test_other_samples_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--sample"):
        parse_sample(text)


@pytest.mark.parametrize("batch_images", [1, 7, 64, 4096])
def test_pages_begin_with_one_batch_and_hold_everything_in_order(batch_images: int) -> None:
    images = [item.image for item in candidates(20_000)]
    found = list(pages(images, batch_images=batch_images))
    assert len(found[0]) == batch_images
    assert max(map(len, found)) == max(batch_images, min(16 * batch_images, PAGE_LIMIT))
    assert [image for page in found for image in page] == images


def test_the_first_page_is_out_before_the_second_is_read() -> None:
    read = []

    def listing() -> object:
        for item in candidates(100):
            read.append(item)
            yield item.image

    next(pages(listing(), batch_images=8))  # type: ignore[arg-type]
    assert len(read) == 8
