"""What feeding the device costs: the host's processor time for an image."""

from __future__ import annotations

from bench.feed import s3
from bench.report import Report


def run() -> Report:
    costs = s3.measure()
    figures = {
        "s3_get_ms": costs.get_ms,
        "s3_list_us": costs.list_us,
        "boto3": {"get_ms": costs.boto3_get_ms, "list_us": costs.boto3_list_us},
    }
    notes = (
        f"S3: processor time of the client, beside SeaweedFS; {s3.THREADS} threads read {s3.N_READ} objects of "
        f"{s3.READ_BYTES / 1000:.0f} kB, and {s3.N_LISTED} keys are listed",
    )
    return Report(name="feed", figures=figures, notes=notes)
