"""The S3 server of a run: moto with the archive already in it. 20,000 uploads over HTTP would take a minute.

`python -m tests.chaos.fleet.bucket PORT FOLDER` is the server's own process. The folder outlives it: it holds the
objects, what changed them since, and which ones are refused, so that a killed server comes back with all of that.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.archive import BUCKET, Item
from tests.services import S3Server
from tests.services.s3 import REGION

ROOT = Path(__file__).parents[3]
ACCOUNT = "123456789012"  # moto's own
EVERYTHING = "*"  # in the list of refused keys
REFUSAL = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
OBJECTS, CHANGES, REFUSED = "objects.pickle", "changes.pickle", "refused"


class ArchiveServer(S3Server):
    """An S3 server that holds the archive of a run after every start, with all changes made through this class."""

    def __init__(self, items: Sequence[Item]) -> None:
        super().__init__()
        (self.directory / OBJECTS).write_bytes(pickle.dumps([(item.key, item.data) for item in items]))
        self._changes: dict[str, bytes | None] = {}
        self._refused: list[str] = []
        self.refuse()

    def command(self) -> list[str]:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.chaos.fleet.bucket import main; main()"
        return [sys.executable, "-c", code, str(self.port), str(self.directory)]

    def delete(self, keys: Iterable[str]) -> None:
        self._change(dict.fromkeys(keys))

    def overwrite(self, objects: dict[str, bytes]) -> None:
        self._change(dict(objects))

    def refuse(self, *keys: str) -> None:
        """Answer 403 to each request for these objects; EVERYTHING: to each request at all."""
        self._refused += keys
        self._write_refused()

    def admit(self, key: str) -> None:
        self._refused.remove(key)
        self._write_refused()

    def _change(self, changes: dict[str, bytes | None]) -> None:
        client = self.client()
        for key, data in changes.items():
            if data is None:
                client.delete_object(Bucket=BUCKET, Key=key)
            else:
                client.put_object(Bucket=BUCKET, Key=key, Body=data)
        client.close()
        self._changes |= changes
        (self.directory / CHANGES).write_bytes(pickle.dumps(self._changes))

    def _write_refused(self) -> None:
        written = self.directory / f"{REFUSED}.new"
        written.write_text("\n".join(self._refused))
        written.replace(self.directory / REFUSED)


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import run_simple

    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    store = s3_backends[ACCOUNT]["aws"]
    store.create_bucket(BUCKET, REGION)
    changes = folder / CHANGES
    held = dict(_read(folder / OBJECTS)) | (_read(changes) if changes.exists() else {})
    for key, data in held.items():
        if data is not None:
            store.put_object(BUCKET, key, data)
    app = _refusing(DomainDispatcherApplication(create_backend_app), folder / REFUSED)
    run_simple("127.0.0.1", port, app, threaded=True, request_handler=MotoRequestHandler)


def _read(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def _refusing(app: Callable[..., Any], refused: Path) -> Callable[..., Any]:
    """The WSGI application, with 403 for what the file lists at the moment."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        bucket, _, key = environ["PATH_INFO"].removeprefix("/").partition("/")
        if bucket == BUCKET and not {key, EVERYTHING}.isdisjoint(refused.read_text().splitlines()):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [REFUSAL]
        return app(environ, start_response)

    return answer


if __name__ == "__main__":
    main()
