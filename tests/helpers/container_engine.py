"""docker/Dockerfile built and started without a daemon: buildah over a base image that debootstrap makes.

Root on Linux is needed. Everything lies in one folder (about 6 GB for both images) that goes with the engine.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.services import ServiceMissingError

ROOT = Path(__file__).parents[2]
BASE = "localhost/base"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
TIMEOUT = 1800.0  # seconds for one step: a busy machine with two cores takes ten minutes to install torch
# As compose starts it: a root that cannot be written, the data folder and /tmp in memory, no capability at all.
START = """
root=$1 user=$2 data=$3; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmp "$root/tmp"
mount -t tmpfs data "$root$data"
mount -o remount,bind,ro "$root"
cd /
exec chroot "$root" setpriv --reuid="${user%:*}" --regid="${user#*:}" --clear-groups --bounding-set=-all \\
    --no-new-privs "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A built image and its files, unpacked."""

    config: dict[str, Any]  # as docker inspect names them: User, Env, Entrypoint, ...
    root: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Start a command as the image's user on a read-only root; only /tmp and the data folder can be written."""
        data = self.config["WorkingDir"]
        inside = ["env", "--ignore-environment", f"--chdir={data}", *self.config["Env"], *command]
        outside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", START, "sh"]
        return _run([*outside, str(self.root), self.config["User"], data, *inside])


class Engine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]
        self._command = ["buildah", *store]
        (folder / "tmp").mkdir()

    def make_base(self) -> None:
        """Debian with Python and nothing else, from the mirror that this machine has packages from."""
        system = self.folder / "base"
        # In a mount namespace of its own: what debootstrap mounts below the folder cannot outlive it.
        bootstrap = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(system), *_mirror()]
        _checked(["unshare", "--mount", *bootstrap])
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, str(system), "/")
        self._buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(system)

    def build(self, target: str) -> Image:
        """One target of the Dockerfile, with this machine's own settings of pip."""
        mounts = [f"--volume={path}:{inside}:ro" for path, inside in self._pip_files().items()]
        how = ["--isolation=chroot", "--network=host", "--format=docker", f"--build-arg=PYTHON_IMAGE={BASE}", *mounts]
        self._buildah("build", *how, f"--target={target}", f"--tag={target}", "--file=docker/Dockerfile", str(ROOT))
        config = json.loads(self._buildah("inspect", "--type=image", target))["Docker"]["config"]
        container = self._buildah("from", f"localhost/{target}")
        return Image(config=config, root=Path(self._buildah("mount", container)))

    def _buildah(self, *arguments: str) -> str:
        return _checked([*self._command, *arguments], TMPDIR=str(self.folder / "tmp")).strip()

    def _pip_files(self) -> Mapping[Path, str]:
        """The files of this machine that pip inside needs, and their names inside: one pip.conf and what it names."""
        options = pip_options()
        path = self.folder / "pip.conf"
        path.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in options.items()), ""]))
        named = {found: str(found) for name, value in options.items() for found in _paths(name, value)}
        return {path: "/etc/pip.conf", **named}


def pip_options() -> dict[str, str]:
    """What `pip config list` says here: environment before files."""
    lines = _checked([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    pairs = [line.partition("=") for line in lines]
    known = {name: str(ast.literal_eval(value)) for name, _, value in pairs}
    chosen: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):
        chosen |= {name.removeprefix(section): value for name, value in known.items() if name.startswith(section)}
    return chosen


def _paths(name: str, value: str) -> Iterator[Path]:
    """Files and folders in an option's value. The pages of an index refer to files in the folder beside them."""
    for word in value.split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            yield path.parent if name.endswith("index-url") else path


def _mirror() -> list[str]:
    """The mirror in apt's lists that has the suite; without one debootstrap takes its own."""
    wanted = ["Created-By: Packages", f"Codename: {SUITE}", "Component: main"]
    return _checked(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]).split()[:1]


def _run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def _checked(command: list[str], **environment: str) -> str:
    done = _run(command, **environment)
    assert done.returncode == 0, f"{command[:2]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@contextmanager
def container_engine() -> Iterator[Engine]:
    """An engine with its base image. Raises ServiceMissingError."""
    missing = [name for name in ("buildah", "debootstrap", "unshare", "apt-get") if shutil.which(name) is None]
    if missing:
        raise ServiceMissingError(f"{', '.join(missing)} not installed (Debian: apt-get install buildah debootstrap)")
    if os.geteuid():
        raise ServiceMissingError("container images are built as root here")
    with TemporaryDirectory(prefix="scanfleet-images-") as folder:
        engine = Engine(Path(folder))
        engine.make_base()
        yield engine
