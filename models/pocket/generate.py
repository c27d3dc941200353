"""Write an archive with known truth.

    python -m scanfleet.models.pocket.generate --check overlay --n 400 --seed 7 --out DIR

Half of the files are JPEG, half PNG, in folders of a hundred. manifest.csv has one row per file: uri (relative to the
manifest), truth, style, text (overlay), boxes ("label x0 y0 x1 y1; ..." in pixels), width, height.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

from scanfleet.models.pocket.scenes import CHECKS, razor
from scanfleet.models.pocket.scenes.scene import Scene, dice, stored

COLUMNS = ("uri", "truth", "style", "text", "boxes", "width", "height")


@dataclass(frozen=True, kw_only=True)
class Order:
    """The archive to write.

    Attributes:
        check: whose pictures.
        n: number of pictures.
        seed: of the pictures.
        out: the folder.
        sizes: sides in pixels, taken in turn.
        share: razor only: the part's length as a share of the side, from and to; None: the scenes' own range.
    """

    check: str
    n: int
    seed: int
    out: Path
    sizes: tuple[int, ...] = (128, 224, 448)
    share: tuple[float, float] | None = None


def write_archive(order: Order) -> Path:
    """Write the pictures and the manifest, and return the manifest's path. The same order gives the same bytes."""
    order.out.mkdir(parents=True, exist_ok=True)
    manifest = order.out / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.DictWriter(stream, COLUMNS)
        rows.writeheader()
        for index in range(order.n):
            rows.writerow(_write(order, index))
    return manifest


def _write(order: Order, index: int) -> dict[str, str | int]:
    # Ten pictures in a row share a size, so that sizes and labels are independent.
    side = order.sizes[index // 10 % len(order.sizes)]
    scene = _draw(order, index, side)
    data, suffix = stored(dice(order.seed, order.check + "-file", index), scene.image, 0.5)
    uri = f"{index // 100:03}/{order.check}-{index:05}{suffix}"
    path = order.out / uri
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    boxes = "; ".join(f"{b.label} {b.x0:.0f} {b.y0:.0f} {b.x1:.0f} {b.y1:.0f}" for b in scene.boxes)
    return {
        "uri": uri,
        "truth": scene.label,
        "style": scene.style,
        "text": scene.text,
        "boxes": boxes,
        "width": side,
        "height": side,
    }


def _draw(order: Order, index: int, side: int) -> Scene:
    if order.share is not None:
        return razor.draw(order.seed, index, side, side, share=order.share)
    scene: Scene = CHECKS[order.check].draw(order.seed, index, side, side)
    return scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", choices=tuple(CHECKS), required=True)
    parser.add_argument("--n", type=int, default=400, help="number of pictures")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--sizes", default="128,224,448", help="sides in pixels, taken in turn")
    parser.add_argument("--share", help="razor: the part's length as a share of the side: FROM,TO, such as 0.02,0.05")
    arguments = parser.parse_args()
    if arguments.share and arguments.check != "razor":
        parser.error("--share is for the razor check only")
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    order = Order(
        check=arguments.check,
        n=arguments.n,
        seed=arguments.seed,
        out=arguments.out,
        sizes=sizes,
        share=_range(parser, arguments.share) if arguments.share else None,
    )
    print(write_archive(order))


def _range(parser: argparse.ArgumentParser, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        parser.error(f"--share {text}: give two numbers, such as 0.02,0.05")
    if not 0 < low <= high <= 1:
        parser.error(f"--share {text}: the first must be over 0 and not over the second, the second at most 1")
    return low, high


if __name__ == "__main__":
    main()
