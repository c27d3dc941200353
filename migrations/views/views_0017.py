"""v_results since 0017: hash and time of the first answer are those of the verdict."""

from scanfleet.migrations.views import views_0014

CHANGES = {
    "i.content_sha256 AS content_sha256": "coalesce(v.content_sha256, i.content_sha256) AS content_sha256",
    "i.changed_at AS changed_at": (
        "CASE WHEN v.created_at > i.changed_at OR i.changed_at IS NULL THEN v.created_at ELSE i.changed_at END"
        " AS changed_at"
    ),
}


def v_results(dialect: str) -> str:
    """Return the statement that creates it."""
    sql = next(each for each in views_0014.statements(dialect) if each.startswith("CREATE VIEW v_results"))
    for before, after in CHANGES.items():
        sql = sql.replace(before, after)
    return sql
