"""Videos, PDF pages and DICOM files; and what is said where their extra is missing."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat

from scanfleet.errors import ImageError
from scanfleet.images import Decoded
from scanfleet.images.decoding import decode, decode_frames
from scanfleet.images.types import FrameChoice
from tests.helpers.animations import frames
from tests.helpers.extra_files import CODECS, FPS, HEIGHT, WIDTH, bar, dicom, pdf, video
from tests.helpers.odd_files import encoded, noise

MAX_PIXELS = 1_000_000
VIDEOS = Path(__file__).parent / "videos"
RAMP = np.tile(np.arange(64) * 4095 // 63, (64, 1))
HEADERS = {
    "cv2": b"\0\0\0\x18ftypisom" + bytes(200),
    "pypdfium2": b"%PDF-1.4\n%%EOF",
    "pydicom": bytes(128) + b"DICM" + bytes(100),
}


def seen(data: bytes, most: int = 8) -> list[Decoded]:
    return list(decode_frames(data, max_pixels=MAX_PIXELS, frames=FrameChoice(most, "mixed")))


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        seen(data)
    return caught.value.reason


@pytest.mark.parametrize("module", HEADERS)
def test_a_missing_extra_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError) as caught:
        decode(HEADERS[module], max_pixels=MAX_PIXELS)
    extra = {"cv2": "video", "pypdfium2": "pdf", "pydicom": "dicom"}[module]
    assert caught.value.reason == "unsupported"
    assert f"[{extra}]" in caught.value.detail


# ffmpeg's testsrc2, 64 x 48 pixels, 10 frames a second, by libx264 and libx265; `trimmed` by `-ss 2.2 -c copy`.
@pytest.mark.parametrize(
    ("name", "n_frames"),
    [
        ("h264.mp4", 60),
        ("open_gop.mp4", 60),
        ("fragmented.mp4", 60),  # one fragment
        ("fragments.mp4", 60),  # one for each key frame
        ("hevc.mov", 60),
        ("trimmed.mp4", 38),
    ],
)
def test_common_codecs_are_read_to_their_last_frame(name: str, n_frames: int) -> None:
    pytest.importorskip("cv2")
    decoded = seen((VIDEOS / name).read_bytes())
    assert [one.n_frames for one in decoded] == [n_frames] * 8
    assert {0, n_frames - 1} <= {one.frame.number for one in decoded if one.frame}


def test_a_video_of_one_frame() -> None:
    pytest.importorskip("cv2")
    (one,) = seen((VIDEOS / "one.mp4").read_bytes())
    assert (one.n_frames, one.image.size) == (1, (64, 48))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_two_video_tracks_are_not_read_as_one(suffix: str) -> None:
    pytest.importorskip("cv2")
    assert reason((VIDEOS / f"two_tracks.{suffix}").read_bytes()) == "unsupported"


@pytest.mark.parametrize("suffix", CODECS)
def test_frames_of_a_video_are_those_of_their_time(suffix: str) -> None:
    pytest.importorskip("cv2")
    data = video(suffix)
    decoded = seen(data)
    assert len(decoded) == 8
    for one in decoded:
        assert one.n_frames == 60
        assert one.frame is not None
        assert one.frame.seconds == pytest.approx(one.frame.number / FPS, abs=0.01)
        assert abs(bar(one.image) - one.frame.number * WIDTH // 60) <= 3
        alone = decode(data, max_pixels=MAX_PIXELS, frame=one.frame.number)
        assert abs(bar(alone.image) - bar(one.image)) <= 1
    assert {0, 59} <= {one.frame.number for one in decoded if one.frame}


@pytest.mark.parametrize("suffix", CODECS)
def test_a_video_that_ends_early(suffix: str) -> None:
    pytest.importorskip("cv2")
    data = video(suffix)
    assert reason(data[: len(data) // 2]) in ("truncated", "corrupt")


def test_a_hole_in_a_video_shows() -> None:
    pytest.importorskip("cv2")
    data = bytearray(video("mp4"))
    at = data.index(b"mdat") + 200
    data[at : at + 3000] = bytes(3000)
    assert reason(bytes(data)) in ("truncated", "corrupt")


def test_a_video_is_turned_as_its_matrix_says() -> None:
    pytest.importorskip("cv2")
    data = bytearray(video("mp4"))
    at = data.index(b"tkhd") + 4 + 40
    struct.pack_into(">9i", data, at, 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    assert {(one.width, one.height) for one in seen(bytes(data))} == {(HEIGHT, WIDTH)}


def test_pages_of_a_pdf() -> None:
    pytest.importorskip("pypdfium2")
    pages = [image.resize((320, 320)) for image in frames(12)]
    decoded = seen(pdf(pages))
    assert (len(decoded), decoded[0].n_frames, decoded[0].format) == (8, 12, "PDF")
    for one in decoded:
        assert one.frame is not None
        assert one.frame.seconds is None
        page = pages[one.frame.number].resize(one.image.size)
        assert max(ImageStat.Stat(ImageChops.difference(one.image, page)).mean) < 3


def test_a_page_of_a_pdf_has_no_more_than_the_limit() -> None:
    pytest.importorskip("pypdfium2")
    data = pdf([noise(1800, 1200)])
    (one,) = seen(data)
    assert one.width * one.height <= MAX_PIXELS < 1800 * 1200
    assert one.frame is None


@pytest.mark.parametrize("damage", ["cut", "hole"])
def test_a_damaged_pdf(damage: str) -> None:
    pytest.importorskip("pypdfium2")
    data = pdf(frames(3, 320))
    at = data.index(b"stream") + 200
    broken = data[:-600] if damage == "cut" else data[:at] + bytes(400) + data[at + 400 :]
    assert reason(broken) in ("truncated", "corrupt")


@pytest.mark.parametrize("compress", [None, "rle"])
def test_greys_of_a_dicom_file(compress: str | None) -> None:
    pytest.importorskip("pydicom")
    (one,) = seen(dicom(RAMP, compress=compress))
    assert np.abs(np.asarray(one.image)[0, :, 0].astype(int) - RAMP[0] / 4095 * 255).max() <= 1
    (inverted,) = seen(dicom(RAMP, compress=compress, PhotometricInterpretation="MONOCHROME1"))
    assert np.abs(np.asarray(inverted.image).astype(int) + np.asarray(one.image) - 255).max() <= 1


def test_a_window_and_a_rescaled_one() -> None:
    pytest.importorskip("pydicom")
    (one,) = seen(dicom(RAMP, WindowCenter=1000, WindowWidth=1000, RescaleSlope=1, RescaleIntercept=-1000))
    row = np.asarray(one.image)[0, :, 0]
    shown = (RAMP[0] - 1000 - 500) / 1000 * 255
    assert np.abs(row - shown.clip(0, 255)).max() <= 1
    assert "1000" in one.notes[0]


def test_frames_of_a_dicom_file() -> None:
    pytest.importorskip("pydicom")
    decoded = seen(dicom(np.stack([RAMP * number // 20 for number in range(20)]), FrameTime=40))
    assert [one.n_frames for one in decoded] == [20] * 8
    for one in decoded:
        assert one.frame is not None
        assert one.frame.seconds == pytest.approx(0.04 * one.frame.number)
        assert abs(np.asarray(one.image).max() - 255 * one.frame.number / 20) <= 2


def test_a_jpeg_in_a_dicom_file_is_whole_or_a_failure() -> None:
    pytest.importorskip("pydicom")
    grey = np.asarray(noise(64, 64).convert("L").resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC))
    data = dicom(grey, compress="jpeg")
    (one,) = seen(data)
    assert np.abs(np.asarray(one.image)[..., 0].astype(int) - grey).max() < 24
    at = data.index(b"\xff\xda") + 120
    assert reason(data[:at] + bytes(200) + data[at + 200 :]) in ("truncated", "corrupt")


@pytest.mark.parametrize("compress", [None, "rle"])
def test_a_dicom_file_that_ends_early(compress: str | None) -> None:
    pytest.importorskip("pydicom")
    assert reason(dicom(RAMP, compress=compress)[:-200]) in ("truncated", "corrupt")


def test_a_header_of_a_dicom_file_without_transfer_syntax() -> None:
    pytest.importorskip("pydicom")
    tag = b"\x02\x00\x10\x00UI"
    assert reason(dicom(RAMP).replace(tag, b"\x02\x00\x11\x00UI")) == "corrupt"


def test_the_mark_of_dicom_within_another_file_means_nothing() -> None:
    note = b"\xff\xfe\x00\x80" + bytes(122) + b"DICM"
    data = encoded(Image.new("RGB", (8, 8), "red"), "JPEG")
    marked = data[:2] + note + data[2:]
    assert marked[128:132] == b"DICM"
    (one,) = seen(marked)
    assert one.format == "JPEG"


def test_a_transfer_syntax_that_is_not_read_is_named() -> None:
    pytest.importorskip("pydicom")
    data = dicom(RAMP).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1\0")
    from pydicom.uid import JPEGLSLossless

    changed = data.replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x00" + str(JPEGLSLossless).encode())
    at = changed.index(b"\x02\0\0\0UL\4\0") + 8
    changed = changed[:at] + struct.pack("<I", struct.unpack_from("<I", changed, at)[0] + 2) + changed[at + 4 :]
    with pytest.raises(ImageError) as caught:
        seen(changed)
    assert caught.value.reason == "unsupported"
    assert JPEGLSLossless in caught.value.detail
