"""What feeding the device costs: the host's processor time for an image."""

from __future__ import annotations

from bench.feed import host
from bench.report import Report


def run() -> Report:
    costs = host.measure()
    figures = {
        "worker_ms": costs["s3"].worker,
        "host_ms": costs["s3"].host,
        "by_source": {
            kind: {"worker_ms": cost.worker, "host_ms": cost.host, "postgres_ms": cost.postgres}
            for kind, cost in costs.items()
        },
    }
    notes = (
        f"JPEG of {host.SIDE} px, processor time, medians; a forward sleeps; worker_ms and host_ms are over S3",
        "host: the worker process and its decoders; PostgreSQL is listed apart",
    )
    return Report(name="feed", figures=figures, notes=notes)
