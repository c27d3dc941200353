"""The server process, alone or with workers of this machine beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial

import structlog

from scanfleet.config.extras import install_hint
from scanfleet.config.settings import Settings
from scanfleet.db.access.tokens import create_token, revoke_token
from scanfleet.db.engine import now, transaction
from scanfleet.db.tables.access import SCOPES
from scanfleet.errors import MissingExtra, ScanfleetError
from scanfleet.producer.local.workers import LocalWorkers, require_worker_extra
from scanfleet.producer.scans.session import Session, free_batches, open_session
from scanfleet.reconcile import Reconciler

try:
    import uvicorn

    from scanfleet.serve.app import make_app
    from scanfleet.serve.context import Serving
    from scanfleet.serve.upkeep import clearing
except ImportError as error:
    raise MissingExtra(f"`scanfleet serve` needs {error.name}: {install_hint('serve')}") from None

log = structlog.get_logger()
LOCAL_TOKEN_LASTS = timedelta(hours=12)


def serve(
    settings: Settings,
    *,
    host: str,
    port: int,
    workers: int = 0,
    proxies: str = "127.0.0.1",
    say: Callable[[str], None],
) -> None:
    """Serve until a signal ends it. workers: to start on this machine. proxies: hosts whose forwarded headers count."""
    with ExitStack() as stack:
        session = stack.enter_context(open_session(settings))
        serving = Serving(settings=settings, engine=session.engine, celery=session.app)
        app = make_app(serving)
        stack.enter_context(clearing(serving))
        if workers:
            require_worker_extra()
            secret = stack.enter_context(_own_token(session))
            say(f"open http://{host}:{port}/ and log in with the token {secret} (all scopes, ends with this command)")
            stack.enter_context(_local(session, workers, say))
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,  # it would hold the addresses of pages, filters and uris included
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=proxies,
            timeout_graceful_shutdown=int(settings.drain_seconds) or 1,
        )
        uvicorn.Server(config).run()


@contextmanager
def _own_token(session: Session) -> Iterator[str]:
    """A token of this run alone."""
    with transaction(session.engine) as connection:
        name = f"local {now(connection):%Y-%m-%d %H:%M:%S}"
        token, secret = create_token(connection, name=name, scopes=SCOPES, lasts=LOCAL_TOKEN_LASTS)
    try:
        yield secret
    finally:
        with transaction(session.engine) as connection:
            revoke_token(connection, token.name)


@contextmanager
def _local(session: Session, n: int, say: Callable[[str], None]) -> Iterator[None]:
    """Workers of this machine, watched by a thread that also reconciles."""
    stop = threading.Event()
    reconciler = Reconciler(session.engine, session.app, session.settings, busy=lambda: True)

    def watch(workers: LocalWorkers) -> None:
        while not stop.wait(session.settings.reconcile_seconds):
            try:
                workers.check()
                reconciler.check()
            except ScanfleetError as error:
                log.warning("local_worker", error=str(error))

    with LocalWorkers(session.settings, n=n, say=say, on_death=partial(free_batches, session.engine)) as workers:
        workers.start()
        thread = threading.Thread(target=watch, args=(workers,), name="local_workers", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
