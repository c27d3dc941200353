"""Fetch the photographs and type faces: `python -m tools.pocket.photographs.packages --out DIR`.

They come from Debian packages, which `apt-get download` gives without installing anything, and are used at training
time only: nothing of them is in the repository or in the wheel. photographs.csv says which file is which photograph's,
and whether it is for training or for development. Those of scikit-image, scikit-learn and scipy are never used: others
measure with them.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

LARGEST = 1400  # pixels of the longer side
QUALITY = 92
LIST = Path(__file__).with_name("photographs.csv")
PICTURES = {  # package: licences of its pictures
    "gnome-backgrounds": "CC-BY-SA-3.0 (drawn wallpapers only)",
    "lomiri-wallpapers-16.04": "CC-BY-SA-4.0, CC-BY-SA-3.0, CC-BY-4.0, CC0-1.0",
    "lomiri-wallpapers-20.04": "CC-BY-SA-4.0, CC-BY-SA-3.0, CC-BY-4.0, CC0-1.0",
    "lxqt-themes": "CC-BY-SA-3.0, LGPL-2.1+",
    "mate-backgrounds": "GPL-2+, CC-BY-SA-4.0",
    "plasma-workspace-wallpapers": "GPL-2+, CC-BY-SA",
    "ukui-wallpapers": "CC-BY-SA-3.0",
}
FACES = (  # OFL-1.1, Apache-2.0, Bitstream, Expat, LPPL, or GPL with the font exception
    "culmus", "fonts-arkpandora", "fonts-bebas-neue", "fonts-beteckna", "fonts-breip", "fonts-cabin", "fonts-cantarell",
    "fonts-cmu", "fonts-comfortaa", "fonts-comic-neue", "fonts-crosextra-caladea", "fonts-crosextra-carlito",
    "fonts-dancingscript", "fonts-dejavu-extra", "fonts-ebgaramond", "fonts-ecolier-court", "fonts-fantasque-sans",
    "fonts-femkeklaver", "fonts-firacode", "fonts-freefont-ttf", "fonts-gfs-artemisia", "fonts-hack",
    "fonts-hosny-amiri", "fonts-humor-sans", "fonts-inconsolata", "fonts-inter", "fonts-isabella", "fonts-junction",
    "fonts-junicode", "fonts-kacst", "fonts-kristi", "fonts-lato", "fonts-liberation", "fonts-linuxlibertine",
    "fonts-lobster", "fonts-lobstertwo", "fonts-lohit-deva", "fonts-lohit-taml", "fonts-millimetre", "fonts-nanum",
    "fonts-open-sans", "fonts-quicksand", "fonts-roboto-slab", "fonts-roboto-unhinted", "fonts-rufscript",
    "fonts-sil-andika", "fonts-sil-padauk", "fonts-symbola", "fonts-thai-tlwg-ttf", "fonts-tomsontalks",
    "fonts-tuffy", "fonts-urw-base35", "fonts-vlgothic", "fonts-wqy-microhei",
)  # fmt: skip
SUFFIXES = (".ttf", ".otf", ".ttc")


def unpacked(package: str, folder: Path) -> Path:
    """Download one package and unpack it below `folder`, unless it is there."""
    target = folder / package
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(["apt-get", "download", package], cwd=place, capture_output=True, text=True, check=False)
        files = list(Path(place).glob("*.deb"))
        if done.returncode or not files:
            raise SystemExit(f"{package}: apt-get download gave nothing: {done.stderr.strip() or 'run apt-get update'}")
        part = target.with_suffix(".part")
        subprocess.run(["dpkg", "-x", str(files[0]), str(part)], check=True)
        part.rename(target)
    return target


def shrunk(source: Path, target: Path) -> None:
    """Write the picture as a JPEG of at most LARGEST pixels a side."""
    with Image.open(source) as photograph:
        small = photograph.convert("RGB")
    small.thumbnail((LARGEST, LARGEST))
    target.parent.mkdir(parents=True, exist_ok=True)
    small.save(target, "JPEG", quality=QUALITY)


def photographs(packages: Path, out: Path) -> None:
    """Write every picture of the list to `out/<split>/<name>`."""
    with LIST.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            shrunk(packages / row["path"], out / row["split"] / row["name"])


def faces(packages: Path, out: Path) -> None:
    """Copy the packages' font files to `out/fonts`."""
    target = out / "fonts"
    target.mkdir(parents=True, exist_ok=True)
    for package in FACES:
        for path in sorted((packages / package).rglob("*")):
            if path.is_file() and path.suffix.lower() in SUFFIXES and not (target / path.name).exists():
                shutil.copyfile(path, target / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for photographs and fonts (1 GB with the packages)"
    )
    arguments = parser.parse_args()
    packages = arguments.out / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    for package in (*PICTURES, *FACES):
        unpacked(package, packages)
    photographs(packages, arguments.out)
    faces(packages, arguments.out)


if __name__ == "__main__":
    main()
