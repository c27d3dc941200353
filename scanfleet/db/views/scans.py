"""`v_scans`: counts, rates and cost of every scan, from its batches, as `scans ls` has them."""

from __future__ import annotations

from scanfleet.db.views.view import View, columns


def _count(name: str) -> str:
    return f"coalesce(n.{name}, 0)"


_PENDING = " - ".join(_count(name) for name in ("images", "scored", "failed", "cancelled"))

SCANS = View(
    name="v_scans",
    about="One row for each scan and rescan, with the counts of `scans ls`.",
    columns=columns(
        ("scan", "s.id", "the scan"),
        ("check", "c.name", "name of the check"),
        ("model", "s.model", "the model, as it was given to the scan"),
        ("state", "s.state", "running, paused, cancelled or done"),
        ("rescan_of", "s.rescan_of", "of a rescan: the scan whose answers it renews"),
        ("pass_id", "s.pass_id", "scans with the same one read the same images once"),
        ("sources", "s.sources", "JSON list: what was listed"),
        ("created_at", "s.created_at", "when it was started"),
        ("finished_at", "s.finished_at", "when it ended"),
        ("listed", "s.n_listed", "images of the listing; null until it ends"),
        ("images", _count("images"), "images enqueued so far"),
        ("scored", _count("scored"), "images with an answer"),
        ("reused", _count("reused"), "of these, answers taken over from an earlier scoring"),
        ("flagged", _count("flagged"), "of these, flag; a rescan changes it, as review"),
        ("review", _count("review"), "of these, review"),
        ("failed", _count("failed"), "images that could not be scored"),
        ("cancelled", _count("cancelled"), "images that were cancelled"),
        ("pending", _PENDING, "images that wait"),
        ("flag_rate", "CAST(n.flagged AS double precision) / nullif(n.scored, 0)", "flagged / scored"),
        ("review_rate", "CAST(n.review AS double precision) / nullif(n.scored, 0)", "review / scored"),
        ("failure_rate", "CAST(n.failed AS double precision) / nullif(n.images, 0)", "failed / images"),
        ("device_seconds", "n.device_seconds", "the cost: seconds of forwards on the device; null: none was measured"),
        ("worker_seconds", "n.worker_seconds", "wall-clock seconds of workers with its batches under way"),
    ),
    rows="""\
FROM scans s
JOIN checks c ON c.id = s.check_id
LEFT JOIN (
  SELECT
    b.scan_id,
    CAST(sum(b.n_images) AS bigint) AS images,
    CAST(sum(b.n_verdicts) AS bigint) AS scored,
    CAST(sum(b.n_reused) AS bigint) AS reused,
    CAST(sum(b.n_flagged) AS bigint) AS flagged,
    CAST(sum(b.n_review) AS bigint) AS review,
    CAST(sum(b.n_failures) AS bigint) AS failed,
    CAST(sum(CASE WHEN b.state = 'cancelled' THEN b.n_images - b.n_verdicts - b.n_failures ELSE 0 END) AS bigint)
      AS cancelled,
    sum($b.seconds.device) AS device_seconds,
    sum($b.seconds.under_way) AS worker_seconds
  FROM batches b GROUP BY b.scan_id
) n ON n.scan_id = s.id""",
)
