"""`v_labels`: the label that stands for each check and image. The rules are those of scanfleet.db.labels.queries."""

from __future__ import annotations

from scanfleet.db.views.view import View, columns

# Once people chose the golden set of a check, other golden images are not used for it.
_SPLIT = """CASE
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
  END"""

LABELS = View(
    name="v_labels",
    about="One row for each check and image, by its bytes, that people labelled: the label that stands.",
    columns=columns(
        ("check", "l.check_name", "name of the check"),
        ("content_sha256", "l.content_sha256", "SHA-256 of the image's bytes; joins v_results"),
        ("uri", "coalesce(l.uri, m.uri)", "where the image was found"),
        ("label", "CASE WHEN l.disputed = 0 THEN l.label END", "the label that stands; null where people differ"),
        ("disputed", "l.disputed = 1", "whether people differ: `labels conflicts` names them"),
        (
            "should_flag",
            "CASE WHEN l.disputed = 0 THEN $in(c.body.flags, l.label) END",
            "whether the label is one that flags, in the newest version of the check; null where people differ",
        ),
        ("who", "l.who", "the person of the newest label that counts, as the following columns"),
        ("labelled_at", "l.at", "when"),
        ("origin", "l.origin", "person, import, review, golden or synthetic"),
        ("drawn", "l.drawn", "why that image was asked about: random represents the archive, others do not"),
        ("note", "l.note", "a remark"),
        ("boxes", "l.boxes", "JSON list of x0, y0, x1, y1 (pixels) and label"),
        ("attributes", "l.attributes", "JSON object"),
        ("shown", "l.shown", "JSON object: the verdict that the person saw; null: none"),
        ("label_id", "l.id", "as `labels ls` numbers it"),
        ("split", _SPLIT, "train, calibration, threshold, golden, or none, for this check"),
        ("cluster", "m.cluster", "look-alikes have the same one"),
        ("width", "m.width", "pixels, upright"),
        ("height", "m.height", "pixels, upright"),
    ),
    rows="""\
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
)
