"""What feeding the device costs: the host's processor time for an image, and what of it is reading S3."""

from __future__ import annotations

from bench.feed import host, s3
from bench.report import Report


def run() -> Report:
    storage, costs = s3.measure(), host.measure()
    figures = {
        "worker_ms": costs["s3"].worker,
        "host_ms": costs["s3"].host,
        "by_source": {
            kind: {"worker_ms": cost.worker, "host_ms": cost.host, "postgres_ms": cost.postgres}
            for kind, cost in costs.items()
        },
        "s3_get_ms": storage.get_ms,
        "s3_list_us": storage.list_us,
        "boto3": {"get_ms": storage.boto3_get_ms, "list_us": storage.boto3_list_us},
    }
    notes = (
        f"JPEG of {host.SIDE} px, processor time, medians; a forward sleeps; worker_ms and host_ms are over S3",
        "host: the worker process and its decoders; PostgreSQL is listed apart",
        f"S3: processor time of the client, beside SeaweedFS; {s3.THREADS} threads read {s3.N_READ} objects of "
        f"{s3.READ_BYTES / 1000:.0f} kB, and {s3.N_LISTED} keys are listed",
    )
    return Report(name="feed", figures=figures, notes=notes)
