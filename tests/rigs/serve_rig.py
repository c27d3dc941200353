"""The HTTP API over a ledger and a worker's pipeline in this process: `work` scores what requests enqueued."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from scanfleet.db.access.tokens import create_token
from scanfleet.db.engine import transaction
from scanfleet.db.tables.access import SCOPES
from scanfleet.messages import score_queue
from scanfleet.queue.app import make_app as make_broker
from scanfleet.serve.app import make_app
from scanfleet.serve.context import Serving
from tests.rigs.worker_rig import Rig, rig


@dataclass
class Served:
    rig: Rig
    serving: Serving
    client: TestClient

    def token(self, name: str, *scopes: str, **more: Any) -> str:
        with transaction(self.serving.engine) as connection:
            return create_token(connection, name=name, scopes=scopes or SCOPES, **more)[1]

    def headers(self, name: str, *scopes: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(name, *scopes)}"}

    def asked(self, headers: dict[str, str], **sent: Any) -> Any:
        """Send an image, let the worker answer, and return the answer."""
        first = self.client.post("/v1/analyze?wait=0", headers=headers, **sent)
        if first.status_code not in (202, 503):
            return first
        self.rig.drain()
        return self.client.get(first.headers["location"], headers=headers)


@contextmanager
def served(folder: Path, **settings: Any) -> Iterator[Served]:
    with (
        rig(folder, real_stores=True, **settings) as made,
        make_broker(made.settings, (score_queue("fake"),)) as broker,
    ):
        serving = Serving(settings=made.settings, engine=made.engine, celery=broker)
        with TestClient(make_app(serving), raise_server_exceptions=False, follow_redirects=False) as client:
            yield Served(rig=made, serving=serving, client=client)
