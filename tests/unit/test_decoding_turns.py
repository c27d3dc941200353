"""Several files in one turn of a decoder child: each gets what it would get alone, whatever its neighbours do."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from structlog.testing import capture_logs

from scanfleet.checks.frames import FrameSettings
from scanfleet.config.settings import load_settings
from scanfleet.decoding import region
from scanfleet.decoding.answers import Answer
from scanfleet.decoding.pool import Decoders
from scanfleet.decoding.process import ChildDied, DecoderProcess
from scanfleet.decoding.protocol import COUNT, FRAME, LENGTH, MOST_FILES, NONE, READY, TURN_BYTES, Wanted
from scanfleet.decoding.spawning import ChildSettings
from scanfleet.errors import DecodersUnavailable, ImageError
from scanfleet.images import Decoded, Enough, Fitted
from scanfleet.images.decoding import decode as decode_here
from scanfleet.images.fit import Fit
from scanfleet.images.types import FrameChoice
from tests.helpers.animations import animated, frames
from tests.helpers.odd_files import encoded, noise

MEGABYTE = 1 << 20
ONE = FrameSettings(max=1)
linux = pytest.mark.skipif(sys.platform != "linux", reason="children share memory on Linux alone")


@contextmanager
def decoders(folder: Path, *, real: bool = False, **how: Any) -> Iterator[Decoders]:
    settings = load_settings(data_dir=folder, max_image_pixels=4_000_000, decode_cpu_seconds=how.pop("cpu_seconds", 5))
    decode = "scanfleet.images.decoding:decode" if real else "tests.helpers.bad_decoders:decode"
    with Decoders(settings, n_children=how.pop("n_children", 1), decode=decode, **how) as pool:
        yield pool


def words(answers: Sequence[Answer]) -> list[str]:
    """The reason of each failure, or the width of the picture."""
    return [each.reason if isinstance(each, ImageError) else str(each[0].width) for each in answers]


def orders(*texts: str) -> list[bytes]:
    """For tests.helpers.bad_decoders, which is asked for frames here: one of each file."""
    return [f"1 {text}".encode() for text in texts]


def test_many_files_are_answered_in_their_order_as_each_is_alone(tmp_path: Path) -> None:
    files = [encoded(noise(number + 3, 5), "JPEG" if number % 2 else "PNG") for number in range(30)]
    files[7], files[20] = b"words", b""
    with decoders(tmp_path, real=True) as pool:
        found = pool.decode_all(files, frames=FrameSettings())
        assert len(pool.pids) == 1
    for number, (data, answer) in enumerate(zip(files, found, strict=True)):
        if isinstance(answer, ImageError):
            assert (number, answer.reason) in ((7, "not_an_image"), (20, "empty"))
            continue
        (decoded,) = answer
        assert isinstance(decoded, Decoded)
        assert decoded.image.tobytes() == decode_here(data, max_pixels=100_000).image.tobytes()


def test_files_share_turns_as_far_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    plain = DecoderProcess.decode

    def counted(self: DecoderProcess, files: Sequence[bytes], wanted: Wanted) -> list[Answer]:
        answers = plain(self, files, wanted)
        turns.append(len(answers))
        return answers

    monkeypatch.setattr(DecoderProcess, "decode", counted)
    small, padded = encoded(noise(8, 8), "PNG"), encoded(noise(8, 8), "PNG") + bytes(TURN_BYTES)
    with decoders(tmp_path, real=True) as pool:
        pool.decode_all([small] * (MOST_FILES + 1), frames=ONE)
        pool.decode_all([small, padded, small], frames=ONE)
        pool.decode_all([small] * 3, frames=ONE, fit=Fit(4, 1, region.REGION_BYTES // 6, True, 3))
    assert turns == [MOST_FILES, 1, 1, 1, 1, 2, 1]


@linux
def test_pictures_beyond_the_shared_memory_come_all_the_same(tmp_path: Path) -> None:
    """Of the two of six million bytes one finds room there, of the last large one not even alone."""
    sizes = [(9, 9), (2000, 1000), (2000, 1000), (9, 8), (1900, 1900), (7, 7)]
    files = [encoded(Image.linear_gradient("L").resize(size).convert("RGB"), "JPEG") for size in sizes]
    assert sum(map(len, files)) < TURN_BYTES
    assert 3 * 1900 * 1900 > region.REGION_BYTES > 3 * 2000 * 1000
    with decoders(tmp_path, real=True) as pool:
        found = pool.decode_all(files, frames=ONE)
        assert len(pool.pids) == 1
    for data, answer in zip(files, found, strict=True):
        assert not isinstance(answer, ImageError)
        assert isinstance(answer[0], Decoded)
        assert answer[0].image.tobytes() == decode_here(data, max_pixels=4_000_000).image.tobytes()


def test_frames_of_several_files(tmp_path: Path) -> None:
    films = [animated("GIF", frames(n), duration=50) for n in (3, 1, 12)]
    with decoders(tmp_path, real=True) as pool:
        found = pool.decode_all(films, frames=FrameSettings(max=4))
        alone = [pool.decode_frames(film, frames=FrameSettings(max=4)) for film in films]
    for answer, one in zip(found, alone, strict=True):
        assert not isinstance(answer, ImageError)
        assert [(each.frame, each.n_frames) for each in answer] == [(each.frame, each.n_frames) for each in one]
        assert [each.image.tobytes() for each in answer if isinstance(each, Decoded)] == [
            each.image.tobytes() for each in one
        ]


# what an image does to the child that it shares


@pytest.mark.parametrize("order", ["abort", "crash", "lie", "swell", "boast"])
def test_only_the_image_that_ends_its_child_is_blamed(tmp_path: Path, order: str) -> None:
    files = orders("picture 1 1", "picture 2 1", order, "picture 4 1", "refuse", "picture 6 1")
    with decoders(tmp_path) as pool, capture_logs() as logs:
        found = pool.decode_all(files, frames=ONE)
    assert words(found) == ["1", "2", "kills_the_decoder", "4", "truncated", "6"]
    deaths = [entry for entry in logs if entry["event"] == "decoder_died"]
    assert [entry["deaths"] for entry in deaths] == [1, 2, 3]  # alone, as often as one that was alone from the start
    assert len({entry["sha256"] for entry in deaths}) == 1
    assert [entry["images"] for entry in logs if entry["event"] == "decoder_turn_died"] == [6]


def test_a_child_that_is_killed_with_a_turn_in_hand_costs_no_image(tmp_path: Path) -> None:
    files = orders("picture 1 1", f"wait {tmp_path}", "picture 3 1")
    found: list[Answer] = []
    with decoders(tmp_path) as pool, capture_logs() as logs:
        thread = threading.Thread(target=lambda: found.extend(pool.decode_all(files, frames=ONE)))
        thread.start()
        while not list(tmp_path.glob("began-*")):
            thread.join(0.01)
        (child,) = pool.pids
        os.kill(child, signal.SIGKILL)
        (tmp_path / "go").touch()
        thread.join(60)
    assert words(found) == ["1", "4", "3"]
    assert {entry["event"] for entry in logs} == {"decoder_turn_died"}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["burn", "burn_and_ignore"])
def test_an_image_that_takes_too_long_is_named_and_its_neighbours_are_not(tmp_path: Path, order: str) -> None:
    with decoders(tmp_path, cpu_seconds=0.3) as pool:
        found = pool.decode_all(orders("picture 1 1", order, "picture 3 1"), frames=ONE)
    assert words(found) == ["1", "too_slow", "3"]


def test_an_image_may_take_its_whole_cpu_time_when_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a turn it has less: then it gets all of it."""
    program = "import runpy; import scanfleet.decoding.protocol as p; p.SHARED_CPU_SECONDS = 0.1; "
    program += "runpy.run_module('scanfleet.decoding.child', run_name='__main__')"
    plain = ChildSettings.command

    def hurried(self: ChildSettings, memory: int) -> list[str]:
        command = plain(self, memory)
        return [command[0], "-c", program, *command[command.index("scanfleet.decoding.child") + 1 :]]

    monkeypatch.setattr(ChildSettings, "command", hurried)
    with decoders(tmp_path) as pool, capture_logs() as logs:
        found = pool.decode_all(orders("toil 0.4", "picture 3 1"), frames=ONE)
    assert words(found) == ["4", "3"]
    assert [entry["cause"] for entry in logs] == ["SIGPROF"]


def test_an_image_that_takes_too_much_memory_ends_the_turn_and_not_its_neighbours(tmp_path: Path) -> None:
    files = orders("picture 1 1", "allocate", "picture 3 1", "picture 4 1")
    with decoders(tmp_path, memory=64 * MEGABYTE) as pool:
        assert words(pool.decode_all(files, frames=ONE)) == ["1", "too_much_memory", "3", "4"]


def test_what_neighbours_took_of_a_child_is_not_an_image_s_fault(tmp_path: Path) -> None:
    with decoders(tmp_path, memory=64 * MEGABYTE) as pool:
        assert words(pool.decode_all(orders(*["leak 30"] * 6), frames=ONE)) == ["4"] * 6


@pytest.mark.slow
def test_a_turn_that_hangs_is_ended_and_only_the_image_that_hangs_is_blamed(tmp_path: Path) -> None:
    with decoders(tmp_path, still_seconds=1.0) as pool:
        assert words(pool.decode_all(orders("picture 1 1", "hang"), frames=ONE)) == ["1", "kills_the_decoder"]


def test_close_frees_a_thread_with_a_turn_in_hand(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def run() -> None:
        try:
            pool.decode_all(orders(f"wait {tmp_path}", "picture 1 1"), frames=ONE)
        except DecodersUnavailable as error:
            caught.append(error)

    with decoders(tmp_path) as pool:
        thread = threading.Thread(target=run)
        thread.start()
        while not list(tmp_path.glob("began-*")):
            thread.join(0.01)
        pool.close()
        thread.join(60)
    assert len(caught) == 1


# what a child that an image has taken over may do


@linux
def test_a_child_cannot_change_the_size_of_the_shared_memory() -> None:
    """A worker that reads beyond its end would be killed."""
    memory = region.make()
    assert memory is not None
    try:
        for size in (0, 2 * region.REGION_BYTES):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.descriptor, size)
    finally:
        memory.pixels.close()
        os.close(memory.descriptor)


PICTURE = (2, 2, 2, 2, 2, 2, 1, 0, 1, NONE, 0.0, b"PNG", 0, 12)
FORGED = {
    "beyond the memory": (*PICTURE[:12], region.REGION_BYTES - 11, 12),
    "before the memory": (*PICTURE[:12], -2, 12),
    "another length": (*PICTURE[:13], 13),
    "no width": (2, 2, 0, 2, 0, 2, *PICTURE[6:12], 0, 0),
    "larger than the file's": (2, 2, 3, 2, 3, 2, *PICTURE[6:12], 0, 18),
    "resized, and nobody asked": (2, 2, 2, 2, 1, 1, *PICTURE[6:12], 0, 3),
    "turned in a ninth way": (*PICTURE[:6], 9, *PICTURE[7:]),
    "no frames": (*PICTURE[:8], 0, *PICTURE[9:]),
    "a frame before the first": (*PICTURE[:9], -2, *PICTURE[10:]),
    "a format of other letters": (*PICTURE[:11], b"P G", *PICTURE[12:]),
    "many notes": (*PICTURE[:7], 9, *PICTURE[8:]),
}


class Forger(ChildSettings):
    """A child that an image has taken over; `decode` is what it says, in hexadecimal digits."""

    def command(self, memory: int) -> list[str]:
        said = bytes.fromhex(self.decode)
        forged = LENGTH.pack(len(READY)) + READY + LENGTH.pack(len(said)) + said
        return [sys.executable, "-c", f"import os, sys; os.write(1, {forged!r}); sys.stdin.read()"]


def say(said: bytes, *, n_files: int = 2) -> list[Answer]:
    settings = {"max_pixels": 100, "cpu_seconds": 5, "memory_bytes": MEGABYTE, "stretch": True}
    child = DecoderProcess(Forger(**settings, decode=said.hex()))
    try:
        child.wait_ready()
        return child.decode([b"picture"] * n_files, Wanted(choice=FrameChoice(3, "first")))
    finally:
        child.end()


@linux
def test_what_is_forged_below_is_well_formed_but_for_one_thing() -> None:
    answers = say(COUNT.pack(1) + FRAME.pack(*PICTURE))
    assert words(answers) == ["2"]


@linux
@pytest.mark.parametrize("what", FORGED)
def test_an_impossible_answer_ends_the_child(what: str) -> None:
    with pytest.raises(ChildDied, match="nonsense"):
        say(COUNT.pack(1) + FRAME.pack(*FORGED[what]))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        COUNT.pack(1) + FRAME.pack(*PICTURE)[:-1],
        COUNT.pack(4) + 4 * FRAME.pack(*PICTURE),  # frames beyond the choice
        3 * (COUNT.pack(1) + FRAME.pack(*PICTURE)),  # answers beyond the files
        COUNT.pack(2) + 2 * FRAME.pack(*[8] * 6, *PICTURE[6:13], 192),  # together more pixels than one image may have
        COUNT.pack(0) + COUNT.pack(1) + b"?" + COUNT.pack(0),
        COUNT.pack(0) + COUNT.pack(7) + b"corrupt" + COUNT.pack(501) + b"x" * 501,
        COUNT.pack(0) + COUNT.pack(7) + b"corrupt" + COUNT.pack(1) + b"\xff",
        COUNT.pack(0) + COUNT.pack(7) + b"cor",
    ],
)
@linux
def test_an_impossible_message_ends_the_child(said: bytes) -> None:
    with pytest.raises(ChildDied, match="nonsense"):
        say(said)


# at the size that the model reads


def test_a_fitted_picture_is_the_one_that_would_be_resized_here(tmp_path: Path) -> None:
    fit, enough = Fit(28, 3136, 200_704, True, Image.Resampling.BICUBIC), Enough(4 * 200_704, 1)
    sizes = [(448, 448), (900, 601), (60, 31), (30, 5), (1800, 1500)]
    files = [encoded(noise(*size), "JPEG") for size in sizes]
    with decoders(tmp_path, real=True) as pool:
        found = pool.decode_all(files, frames=ONE, enough=enough, fit=fit)
    for data, answer, size in zip(files, found, sizes, strict=True):
        assert not isinstance(answer, ImageError)
        (fitted,) = answer
        assert isinstance(fitted, Fitted)
        here = decode_here(data, max_pixels=4_000_000, enough=enough).image
        wanted = fit.size(here.size)
        assert wanted is not None
        assert (fitted.width, fitted.height) == size
        assert (fitted.decoded_size, fitted.size) == (here.size, wanted)
        assert bytes(fitted.rgb) == here.resize(wanted, Image.Resampling.BICUBIC).tobytes()


def test_a_picture_that_no_model_takes_comes_as_it_is(tmp_path: Path) -> None:
    with decoders(tmp_path, real=True) as pool:
        ((decoded,),) = pool.decode_all([encoded(noise(402, 2), "PNG")], frames=ONE, fit=Fit(28, 1, 10_000, True, 3))
    assert isinstance(decoded, Decoded)
    assert decoded.image.size == (402, 2)
