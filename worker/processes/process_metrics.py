"""Metrics of this process: memory, processor time, open files. `scanfleet metrics` has those of the fleet."""

from __future__ import annotations

import importlib.util

import structlog

from scanfleet.config.extras import install_hint
from scanfleet.config.settings import Settings
from scanfleet.errors import BadSettings, MissingExtra

log = structlog.get_logger()


def serve_process_metrics(settings: Settings) -> int | None:
    """Serve them where a port is set, and return the port. Raises MissingExtra, BadSettings."""
    if settings.metrics_port is None:
        return None
    if importlib.util.find_spec("prometheus_client") is None:
        raise MissingExtra(f"--port needs the metrics extra, which is not installed: {install_hint('metrics')}")
    from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    for each in (PROCESS_COLLECTOR, GC_COLLECTOR):
        registry.register(each)
    at = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        server, _ = start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=registry)
    except OSError as error:
        raise BadSettings(f"--port: cannot listen on {at} ({error.strerror}): name another one") from None
    log.info("metrics_served", host=settings.metrics_host, port=server.server_port)
    return int(server.server_port)
