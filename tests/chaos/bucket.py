"""The S3 server of a run: moto with the archive already in it. 20,000 uploads over HTTP would take a minute.

`python -m tests.chaos.bucket PORT IMAGES SEED POISON` is the server's own process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chaos.archive import BUCKET, make_archive
from tests.services import S3Server
from tests.services.s3 import REGION

ROOT = Path(__file__).parents[2]
ACCOUNT = "123456789012"  # moto's own


class ArchiveServer(S3Server):
    """An S3 server that holds the archive of a run after every start."""

    def __init__(self, *, images: int, seed: int, poison: int) -> None:
        super().__init__()
        self._numbers = (images, seed, poison)

    def command(self) -> list[str]:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.chaos.bucket import main; main()"
        return [sys.executable, "-c", code, *map(str, (self.port, *self._numbers))]


def main() -> None:
    from moto.s3.models import s3_backends
    from moto.server import main as serve

    port, images, seed, poison = map(int, sys.argv[1:])
    store = s3_backends[ACCOUNT]["aws"]
    store.create_bucket(BUCKET, REGION)
    for item in make_archive(images=images, seed=seed, poison=poison):
        store.put_object(BUCKET, item.key, item.data)
    serve(["-H", "127.0.0.1", "-p", str(port)])


if __name__ == "__main__":
    main()
