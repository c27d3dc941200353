"""`v_results`, the answer that stands for every image of every scan, and `v_latest`, the newest one over all scans."""

from __future__ import annotations

from dataclasses import replace

from scanfleet.db.views.view import Column, View, columns, quoted

_KEYS = columns(
    ("image_id", "i.id", "the image in its scan; the key of an incremental sync"),
    ("scan", "s.id", "the scan, as `scans ls` names it; never a rescan"),
    ("check", "c.name", "name of the check; in SQL always in double quotes"),
    ("model", "s.model", "the model, as it was given to the scan"),
    ("uri", "i.uri", "where the image lies"),
)
_ANSWER = columns(
    ("label", "v.label", "the answer; null without one, as the columns down to answered_by_scan"),
    ("decision", "v.decision", "clear, review or flag"),
    ("score", "v.score", "calibrated probability of a flag; null where there is no calibrator"),
    (
        "calibrated",
        "r.calibrator IS NOT NULL AND coalesce($v.frames.n_scored, 1) <= 1",
        "whether the score is a calibrated probability",
    ),
    ("margin", "v.margin", "log-odds of the flagging labels against the others, in logits"),
    ("mass", "v.mass", "probability of all labels together"),
    ("unlike", "v.unlike", "share of the adapter's calibration images that are less unlike; null: not compared"),
    ("doubted", "v.doubted", "the decision by the margin alone, where a review stands for an unlike image"),
    ("verdict_id", "v.id", "the verdict that stands"),
    ("base_model", "r.base_model", "the base model that answered"),
    ("precision", "r.precision", "its precision"),
    ("mode", "r.mode", "how it was asked, as text"),
    ("scorer_id", "r.id", "the scorer: base model, adapter, check and all that can change a margin"),
    ("adapter_id", "a.id", "the adapter, as `adapters ls` numbers it; null: the base model alone"),
    ("adapter", "a.weights_sha256", "SHA-256 of the adapter's weights"),
    (
        "worker",
        "b.worker",
        "the worker whose batch gave the answer; of a reused one, that of its original; null before 0014",
    ),
    (
        "scored_at",
        "coalesce(v.computed_at, o.created_at, v.created_at)",
        "when the answer was computed; of a reused one, when its original was",
    ),
    ("written_at", "v.created_at", "when the verdict was written"),
    ("reused", "v.reused_from IS NOT NULL", "whether it was taken over from an earlier scoring of the same bytes"),
    ("answered_by_scan", "v.scan_id", "the scan that wrote the verdict: this one, or a rescan"),
    ("boxes", "v.boxes", "JSON list of x0, y0, x1, y1 (pixels), label and score; null: not asked for"),
)
_IMAGE = columns(
    (
        "content_sha256",
        "coalesce(v.content_sha256, i.content_sha256)",
        "SHA-256 of the bytes; null before they were read",
    ),
    ("size", "i.size", "bytes"),
    ("width", "i.width", "pixels, upright"),
    ("height", "i.height", "pixels, upright"),
    ("meta", "i.meta", "JSON object: the columns of the manifest"),
    ("scan_created_at", "s.created_at", "when the scan was started"),
    (
        "changed_at",
        "CASE WHEN v.created_at > i.changed_at OR i.changed_at IS NULL THEN v.created_at ELSE i.changed_at END",
        "when state or answer changed last; null: not since it was enqueued. The cursor of an incremental sync",
    ),
)
_STATE = Column(name="state", sql="i.state", about="pending, verdict, failed or cancelled")
_FAILURE = columns(
    ("failure_stage", "f.stage", "where it failed: fetch, decode, prepare, score or process; null: it did not"),
    ("failure_reason", "f.reason", "why, as a short stable word"),
    ("failure_detail", "f.detail", "why, in words"),
    ("failed_at", "f.at", "when it failed"),
)

RESULTS = View(
    name="v_results",
    about="One row for each image of each scan, with the answer that stands. Images of rescans are left out: their "
    "answers stand in the scan that they renew.",
    columns=(*_KEYS, _STATE, *_ANSWER, *_IMAGE, *_FAILURE),
    rows="""\
FROM images i
JOIN scans s ON s.id = i.scan_id
JOIN checks c ON c.id = s.check_id
LEFT JOIN verdicts v ON v.id = i.verdict_id
LEFT JOIN verdicts o ON o.id = v.reused_from
LEFT JOIN images ai ON ai.id = coalesce(o.image_id, v.image_id)
LEFT JOIN batches b ON b.id = ai.batch_id
LEFT JOIN scorers r ON r.id = v.scorer_id
LEFT JOIN adapters a ON a.id = r.adapter_id
LEFT JOIN failures f ON f.image_id = i.id
WHERE i.rescan_of IS NULL""",
)

LATEST = View(
    name="v_latest",
    about="One row for each check and uri that has an answer in some scan: the newest one by scored_at, and of those "
    "that are equally new the one written last. Columns as in v_results.",
    columns=tuple(replace(column, sql=f"n.{quoted(column.name)}") for column in (*_KEYS, *_ANSWER, *_IMAGE)),
    rows="""\
FROM (
  SELECT v_results.*, row_number() OVER (
    PARTITION BY "check", uri ORDER BY scored_at DESC, written_at DESC, image_id DESC
  ) AS place
  FROM v_results WHERE state = 'verdict'
) n
WHERE n.place = 1""",
)
