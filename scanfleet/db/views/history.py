"""`v_verdict_history`, every answer that was ever given, and `v_failures`, the images that could not be scored."""

from __future__ import annotations

from scanfleet.db.views.view import View, columns

HISTORY = View(
    name="v_verdict_history",
    about="One row for each verdict that was ever written, under the image that it is about: those of rescans under "
    "the image that they renew.",
    columns=columns(
        ("image_id", "coalesce(i.rescan_of, i.id)", "the image, as in v_results"),
        ("verdict_id", "v.id", "the verdict"),
        ("scan", "coalesce(h.scan_id, s.rescan_of, s.id)", "the scan of the image; never a rescan"),
        ("written_by_scan", "v.scan_id", "the scan or rescan that wrote the verdict"),
        ("stands", "coalesce(h.verdict_id = v.id, FALSE)", "whether it is the answer that stands"),
        ("check", "c.name", "name of the check"),
        ("model", "s.model", "the model, as it was given to the scan"),
        ("uri", "i.uri", "where the image lies"),
        ("content_sha256", "v.content_sha256", "SHA-256 of the bytes that were scored"),
        ("label", "v.label", "the answer"),
        ("decision", "v.decision", "clear, review or flag"),
        ("score", "v.score", "calibrated probability of a flag"),
        ("margin", "v.margin", "logits"),
        ("scorer_id", "v.scorer_id", "the scorer"),
        ("base_model", "r.base_model", "the base model that answered"),
        ("adapter_id", "a.id", "the adapter; null: the base model alone"),
        ("adapter", "a.weights_sha256", "SHA-256 of the adapter's weights"),
        (
            "scored_at",
            "coalesce(v.computed_at, o.created_at, v.created_at)",
            "when the answer was computed; of a reused one, when its original was",
        ),
        ("written_at", "v.created_at", "when it was written, which is when it became the answer that stands"),
        ("reused", "v.reused_from IS NOT NULL", "whether it was taken over from an earlier scoring"),
        ("worker", "b.worker", "the worker whose batch gave the answer; of a reused one, that of its original"),
        ("drawn", "i.drawn", "why a rescan chose the image: band, audit or all; null: it is no rescan's"),
    ),
    rows="""\
FROM verdicts v
JOIN images i ON i.id = v.image_id
JOIN scans s ON s.id = v.scan_id
JOIN checks c ON c.id = s.check_id
JOIN scorers r ON r.id = v.scorer_id
LEFT JOIN images h ON h.id = coalesce(i.rescan_of, i.id)
LEFT JOIN verdicts o ON o.id = v.reused_from
LEFT JOIN images ai ON ai.id = coalesce(o.image_id, v.image_id)
LEFT JOIN batches b ON b.id = ai.batch_id
LEFT JOIN adapters a ON a.id = r.adapter_id""",
)

FAILURES = View(
    name="v_failures",
    about="One row for each image that could not be scored, those of rescans included.",
    columns=columns(
        ("image_id", "i.id", "the image in its scan"),
        ("scan", "s.id", "the scan or rescan"),
        ("rescan_of", "s.rescan_of", "of a rescan: the scan whose answers it renews"),
        ("check", "c.name", "name of the check"),
        ("model", "s.model", "the model, as it was given to the scan"),
        ("uri", "i.uri", "where the image lies"),
        ("stage", "f.stage", "where it failed: fetch, decode, prepare, score or process"),
        ("reason", "f.reason", "why, as a short stable word"),
        ("detail", "f.detail", "why, in words"),
        ("failed_at", "f.at", "when"),
        ("size", "i.size", "bytes"),
        ("meta", "i.meta", "JSON object: the columns of the manifest"),
    ),
    rows="""\
FROM failures f
JOIN images i ON i.id = f.image_id
JOIN scans s ON s.id = f.scan_id
JOIN checks c ON c.id = s.check_id""",
)
