"""Files as real archives hold them, with the expected outcome of each: a verdict, or a failure with this reason."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

VERDICT = "verdict"


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_png(side: int) -> bytes:
    """A valid PNG header that claims side x side pixels, in under 100 bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def noise(width: int = 96, height: int = 64) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_odd_files(folder: Path) -> dict[str, str]:
    """Write them; returns file name -> "verdict" or "stage reason"."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    grey = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    jpeg = encoded(noise(), "JPEG")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "lime")]
    files: dict[str, tuple[bytes, str]] = {
        "plain.jpg": (jpeg, VERDICT),
        "empty.jpg": (b"", "decode empty"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "decode truncated"),
        "text.jpg": (b"this is a note, not a picture\n" * 20, "decode not_an_image"),
        "bomb.png": (bomb_png(30_000), "decode too_many_pixels"),
        "cmyk.jpg": (encoded(Image.new("CMYK", (64, 64), (0, 200, 200, 0)), "JPEG"), VERDICT),
        "sixteen bit.png": (encoded(Image.fromarray(grey), "PNG"), VERDICT),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), VERDICT),
        "turned.jpg": (encoded(noise(80, 40), "JPEG", exif=turned.tobytes()), VERDICT),
        "clear.png": (encoded(Image.new("RGBA", (50, 50), (9, 9, 9, 0)), "PNG"), VERDICT),
        "palette.png": (encoded(noise(70, 70).convert("P"), "PNG"), VERDICT),
        "one pixel.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), VERDICT),
        "Ünïcödé 画像 (1) 'quoted' %20.webp": (encoded(noise(90, 90), "WEBP"), VERDICT),
        "thin.png": (encoded(Image.new("RGB", (3000, 3)), "PNG"), "prepare unsuitable"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {name: outcome for name, (_, outcome) in files.items()}
