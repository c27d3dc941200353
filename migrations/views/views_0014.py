"""The views of 0014. $v.a.b and $in(v.a.b, c) stand for what reads JSON (see `statements`)."""

import re

VIEWS = {
    "v_results": """\
CREATE VIEW v_results AS
SELECT
  i.id AS image_id,
  s.id AS scan,
  c.name AS "check",
  s.model AS model,
  i.uri AS uri,
  i.state AS state,
  v.label AS label,
  v.decision AS decision,
  v.score AS score,
  r.calibrator IS NOT NULL AND coalesce($v.frames.n_scored, 1) <= 1 AS calibrated,
  v.margin AS margin,
  v.mass AS mass,
  v.unlike AS unlike,
  v.doubted AS doubted,
  v.id AS verdict_id,
  r.base_model AS base_model,
  r.precision AS precision,
  r.mode AS mode,
  r.id AS scorer_id,
  a.id AS adapter_id,
  a.weights_sha256 AS adapter,
  b.worker AS worker,
  coalesce(v.computed_at, o.created_at, v.created_at) AS scored_at,
  v.created_at AS written_at,
  v.reused_from IS NOT NULL AS reused,
  v.scan_id AS answered_by_scan,
  v.boxes AS boxes,
  i.content_sha256 AS content_sha256,
  i.size AS size,
  i.width AS width,
  i.height AS height,
  i.meta AS meta,
  s.created_at AS scan_created_at,
  i.changed_at AS changed_at,
  f.stage AS failure_stage,
  f.reason AS failure_reason,
  f.detail AS failure_detail,
  f.at AS failed_at
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
    "v_latest": """\
CREATE VIEW v_latest AS
SELECT
  n.image_id AS image_id,
  n.scan AS scan,
  n."check" AS "check",
  n.model AS model,
  n.uri AS uri,
  n.label AS label,
  n.decision AS decision,
  n.score AS score,
  n.calibrated AS calibrated,
  n.margin AS margin,
  n.mass AS mass,
  n.unlike AS unlike,
  n.doubted AS doubted,
  n.verdict_id AS verdict_id,
  n.base_model AS base_model,
  n.precision AS precision,
  n.mode AS mode,
  n.scorer_id AS scorer_id,
  n.adapter_id AS adapter_id,
  n.adapter AS adapter,
  n.worker AS worker,
  n.scored_at AS scored_at,
  n.written_at AS written_at,
  n.reused AS reused,
  n.answered_by_scan AS answered_by_scan,
  n.boxes AS boxes,
  n.content_sha256 AS content_sha256,
  n.size AS size,
  n.width AS width,
  n.height AS height,
  n.meta AS meta,
  n.scan_created_at AS scan_created_at,
  n.changed_at AS changed_at
FROM (
  SELECT v_results.*, row_number() OVER (
    PARTITION BY "check", uri ORDER BY scored_at DESC, written_at DESC, image_id DESC
  ) AS place
  FROM v_results WHERE state = 'verdict'
) n
WHERE n.place = 1""",
    "v_verdict_history": """\
CREATE VIEW v_verdict_history AS
SELECT
  coalesce(i.rescan_of, i.id) AS image_id,
  v.id AS verdict_id,
  coalesce(h.scan_id, s.rescan_of, s.id) AS scan,
  v.scan_id AS written_by_scan,
  coalesce(h.verdict_id = v.id, FALSE) AS stands,
  c.name AS "check",
  s.model AS model,
  i.uri AS uri,
  v.content_sha256 AS content_sha256,
  v.label AS label,
  v.decision AS decision,
  v.score AS score,
  v.margin AS margin,
  v.scorer_id AS scorer_id,
  r.base_model AS base_model,
  a.id AS adapter_id,
  a.weights_sha256 AS adapter,
  coalesce(v.computed_at, o.created_at, v.created_at) AS scored_at,
  v.created_at AS written_at,
  v.reused_from IS NOT NULL AS reused,
  b.worker AS worker,
  i.drawn AS drawn
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
    "v_failures": """\
CREATE VIEW v_failures AS
SELECT
  i.id AS image_id,
  s.id AS scan,
  s.rescan_of AS rescan_of,
  c.name AS "check",
  s.model AS model,
  i.uri AS uri,
  f.stage AS stage,
  f.reason AS reason,
  f.detail AS detail,
  f.at AS failed_at,
  i.size AS size,
  i.meta AS meta
FROM failures f
JOIN images i ON i.id = f.image_id
JOIN scans s ON s.id = f.scan_id
JOIN checks c ON c.id = s.check_id""",
    "v_scans": """\
CREATE VIEW v_scans AS
SELECT
  s.id AS scan,
  c.name AS "check",
  s.model AS model,
  s.state AS state,
  s.rescan_of AS rescan_of,
  s.pass_id AS pass_id,
  s.sources AS sources,
  s.created_at AS created_at,
  s.finished_at AS finished_at,
  s.n_listed AS listed,
  coalesce(n.images, 0) AS images,
  coalesce(n.scored, 0) AS scored,
  coalesce(n.reused, 0) AS reused,
  coalesce(n.flagged, 0) AS flagged,
  coalesce(n.review, 0) AS review,
  coalesce(n.failed, 0) AS failed,
  coalesce(n.cancelled, 0) AS cancelled,
  coalesce(n.images, 0) - coalesce(n.scored, 0) - coalesce(n.failed, 0) - coalesce(n.cancelled, 0) AS pending,
  CAST(n.flagged AS double precision) / nullif(n.scored, 0) AS flag_rate,
  CAST(n.review AS double precision) / nullif(n.scored, 0) AS review_rate,
  CAST(n.failed AS double precision) / nullif(n.images, 0) AS failure_rate,
  n.device_seconds AS device_seconds,
  n.worker_seconds AS worker_seconds
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
    "v_labels": """\
CREATE VIEW v_labels AS
SELECT
  l.check_name AS "check",
  l.content_sha256 AS content_sha256,
  coalesce(l.uri, m.uri) AS uri,
  CASE WHEN l.disputed = 0 THEN l.label END AS label,
  l.disputed = 1 AS disputed,
  CASE WHEN l.disputed = 0 THEN $in(c.body.flags, l.label) END AS should_flag,
  l.who AS who,
  l.at AS labelled_at,
  l.origin AS origin,
  l.drawn AS drawn,
  l.note AS note,
  l.boxes AS boxes,
  l.attributes AS attributes,
  l.shown AS shown,
  l.id AS label_id,
  CASE
    WHEN m.split = 'golden'
    AND EXISTS (
      SELECT 1 FROM labels p WHERE p.check_name = l.check_name AND p.origin = 'golden' AND NOT EXISTS (
        SELECT 1 FROM labels u
        WHERE u.check_name = p.check_name AND u.content_sha256 = p.content_sha256 AND u.undoes = p.id
      )
    )
    AND NOT EXISTS (
      SELECT 1 FROM labels q
      WHERE q.check_name = l.check_name AND q.content_sha256 = l.content_sha256 AND q.origin = 'golden'
    ) THEN 'none' ELSE m.split
  END AS split,
  m.cluster AS cluster,
  m.width AS width,
  m.height AS height
FROM (
  SELECT counted.*,
    row_number() OVER (
      PARTITION BY check_name, content_sha256 ORDER BY CASE WHEN boxes IS NULL THEN 1 ELSE 0 END, id DESC
    ) AS place,
    CASE WHEN min(label) OVER (PARTITION BY check_name, content_sha256)
      <> max(label) OVER (PARTITION BY check_name, content_sha256) THEN 1 ELSE 0 END AS disputed
  FROM (
    SELECT g.*,
      row_number() OVER (PARTITION BY g.check_name, g.content_sha256, g.who ORDER BY g.id DESC) AS newest,
      max(CASE WHEN g.settles THEN g.id ELSE 0 END) OVER (PARTITION BY g.check_name, g.content_sha256) AS settled
    FROM labels g
    WHERE g.undoes IS NULL AND NOT EXISTS (
      SELECT 1 FROM labels u
      WHERE u.check_name = g.check_name AND u.content_sha256 = g.content_sha256 AND u.undoes = g.id
    )
  ) counted
  WHERE newest = 1 AND id >= settled
) l
LEFT JOIN labelled_images m ON m.content_sha256 = l.content_sha256
LEFT JOIN checks c ON c.id = (SELECT max(k.id) FROM checks k WHERE k.name = l.check_name)
WHERE l.place = 1""",
}


def statements(dialect: str) -> list[str]:
    """Return the statements that create them on "postgresql" or "sqlite"."""
    inside, number = r"\$in\((\w+\.\w+)\.(\w+), ([\w.]+)\)", r"\$(\w+\.\w+)\.(\w+)"
    if dialect == "postgresql":
        forms = {inside: r"jsonb_exists(\1 -> '\2', \3)", number: r"CAST(\1 ->> '\2' AS double precision)"}
    else:
        forms = {
            inside: r"EXISTS (SELECT 1 FROM json_each(\1, '$.\2') WHERE value = \3)",
            number: r"json_extract(\1, '$.\2')",
        }
    found = list(VIEWS.values())
    for form, text in forms.items():
        found = [re.sub(form, text, sql) for sql in found]
    return found
