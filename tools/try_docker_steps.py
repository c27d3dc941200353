"""Take the Dockerfile's steps without a container engine: `python tools/try_docker_steps.py [producer|worker]`.

The stages TARGET-build and TARGET are read from docker/Dockerfile. WORKDIR, COPY and RUN of the build stage
are carried out in a temporary directory that stands for the root of the image; then the image's entry point
is started with the environment of the final stage, and the store is migrated. For the producer, torch must be
absent. What needs root or a base image (useradd, apt) is named and left out.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGE_PATHS = ("/opt/scanfleet", "/src", "/var/lib/scanfleet")  # mapped below the temporary directory
NO_TORCH = (
    "import importlib.util, sys, producer.cli.main\n"
    "assert 'torch' not in sys.modules, 'the command line imports torch'\n"
    "assert importlib.util.find_spec('torch') is None, 'the producer image contains torch'\n"
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One instruction: `word` is RUN, COPY, ...; `text` is the rest, continued lines joined."""

    word: str
    text: str


def read_stages(dockerfile: Path) -> dict[str, list[Step]]:
    """The instructions of each named stage, in order."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: dict[str, list[Step]] = {}
    current: list[Step] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, text = line.strip().partition(" ")
        if word == "FROM":
            current = stages.setdefault(text.split(" AS ")[1].strip(), [])
        elif word:
            current.append(Step(word=word, text=" ".join(text.split())))
    return stages


class Image:
    """A temporary directory that plays the file system of an image."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workdir = root
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("SCANFLEET_")}
        self.env.pop("PYTHONPATH", None)

    def mapped(self, text: str) -> str:
        """The paths of the image as paths of this machine."""
        for path in IMAGE_PATHS:
            text = text.replace(path, f"{self.root}{path}")
        return text

    def take(self, step: Step) -> None:
        """Carry out one instruction of a build stage or the environment of a final one."""
        if step.word == "WORKDIR":
            self.workdir = Path(self.mapped(step.text))
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif step.word == "ENV":
            pairs = (part.partition("=") for part in shlex.split(step.text))
            self.env |= {name: self.mapped(value).replace("$PATH", self.env["PATH"]) for name, _, value in pairs}
        elif step.word == "COPY" and not step.text.startswith("--from"):
            *sources, target = step.text.split()
            for source in sources:
                self._copy(ROOT / source, target)
        elif step.word == "RUN" and "useradd" not in step.text:
            self.run(["sh", "-euc", self.mapped(step.text)])
        else:
            print("   needs an engine, left out")

    def run(self, command: list[str]) -> None:
        """Run a command in the image; raises CalledProcessError."""
        subprocess.run(command, cwd=self.workdir, env=self.env, check=True)  # noqa: S603

    def _copy(self, source: Path, target: str) -> None:
        place = Path(self.mapped(target))
        place = place if place.is_absolute() else self.workdir / place
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / source.name if place.is_dir() else place)


def try_target(target: str, stages: dict[str, list[Step]], root: Path) -> None:
    """Build one target and start what it would start."""
    image = Image(root)
    for step in (*stages[f"{target}-build"], *stages[target]):
        print(f"-- {step.word} {step.text}", flush=True)
        image.take(step)
    shutil.rmtree(image.root / "src")  # the image has no sources, only what was installed
    for line in ("scanfleet --help", "scanfleet db upgrade", "scanfleet db check", "scanfleet checks ls"):
        print(f"-- start {line}", flush=True)
        image.run(line.split())
    if target == "producer":
        image.run(["python", "-c", NO_TORCH])
    else:
        image.run(["scanfleet", "worker", "score", "--help"])


def main() -> None:
    """Try the target given on the command line, by default the producer."""
    target = sys.argv[1] if len(sys.argv) > 1 else "producer"
    stages = read_stages(ROOT / "docker/Dockerfile")
    if target not in stages or f"{target}-build" not in stages:
        sys.exit(f"docker/Dockerfile has no target {target!r}: choose producer or worker")
    with tempfile.TemporaryDirectory(prefix="scanfleet-image-") as directory:
        try_target(target, stages, Path(directory))
    print(f"{target}: every step passed")


if __name__ == "__main__":
    main()
