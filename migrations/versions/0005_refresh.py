"""refresh: labelled images and their splits, trainings, promotions, refusals; scans that renew another one's answers

Rules: a migration runs on SQLite and PostgreSQL; workers of the previous version go on while it runs, so add columns
as nullable and drop them one release later; a column with a default is filled in the same migration.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def _number() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _time() -> sa.types.TypeEngine[Any]:
    return sa.DateTime(timezone=True)


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON(none_as_null=True)


def upgrade() -> None:
    _labels()
    _trainings()
    _champions()
    op.add_column("scans", sa.Column("rescan_of", sa.Text(), nullable=True))
    op.add_column("images", sa.Column("rescan_of", _number(), nullable=True))
    op.add_column("images", sa.Column("drawn", sa.Text(), nullable=True))
    op.add_column("images", sa.Column("replaced", _number(), nullable=True))


def _labels() -> None:
    op.create_table(
        "labelled_images",
        sa.Column("content_sha256", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("root", sa.Text(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("width", _number(), nullable=False),
        sa.Column("height", _number(), nullable=False),
        sa.Column("look", sa.Text(), nullable=False),
        sa.Column("given_group", sa.Text(), nullable=True),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("added_at", _time(), nullable=False),
        sa.CheckConstraint(
            "split IN ('train', 'calibration', 'threshold', 'golden', 'none')",
            name=op.f("ck_labelled_images_split"),
        ),
        sa.PrimaryKeyConstraint("content_sha256", name=op.f("pk_labelled_images")),
    )
    op.create_index(op.f("ix_labelled_images_cluster"), "labelled_images", ["cluster"])
    op.create_index(op.f("ix_labelled_images_added_at"), "labelled_images", ["added_at"])
    op.add_column("labels", sa.Column("undoes", _number(), nullable=True))
    op.add_column("labels", sa.Column("settles", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("labels", sa.Column("drawn", sa.Text(), nullable=True))
    op.add_column("labels", sa.Column("note", sa.Text(), nullable=True))
    op.create_index(op.f("ix_labels_check_name_id"), "labels", ["check_name", "id"])
    op.create_index(op.f("ix_labels_check_name_origin"), "labels", ["check_name", "origin"])


def _trainings() -> None:
    op.create_table(
        "trainings",
        sa.Column("id", _number(), nullable=False),
        sa.Column("check_id", _number(), nullable=False),
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("overrides", _json(), nullable=False),
        sa.Column("seed", _number(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=True),
        sa.Column("newest_label", _number(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("progress", _json(), nullable=True),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", _time(), nullable=True),
        sa.Column("lease_token", _number(), nullable=False),
        sa.Column("attempts", _number(), nullable=False),
        sa.Column("not_before", _time(), nullable=True),
        sa.Column("waiting_for", sa.Text(), nullable=True),
        sa.Column("rung_at", _time(), nullable=True),
        sa.Column("adapter_id", _number(), nullable=True),
        sa.Column("champion_id", _number(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("report", _json(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", _time(), nullable=False),
        sa.Column("started_at", _time(), nullable=True),
        sa.Column("finished_at", _time(), nullable=True),
        sa.CheckConstraint(
            "state IN ('ready', 'leased', 'done', 'failed', 'cancelled')", name=op.f("ck_trainings_state")
        ),
        sa.CheckConstraint("verdict IN ('promote', 'hold', 'reject')", name=op.f("ck_trainings_verdict")),
        sa.ForeignKeyConstraint(["check_id"], ["checks.id"], name=op.f("fk_trainings_check_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trainings")),
    )
    op.create_index(op.f("ix_trainings_state_id"), "trainings", ["state", "id"])
    op.create_index(
        op.f("ix_trainings_check_name_base_model_id"), "trainings", ["check_name", "base_model", "id"]
    )


def _champions() -> None:
    op.add_column("adapters", sa.Column("training_id", _number(), nullable=True))
    op.add_column("adapters", sa.Column("gate", _json(), nullable=True))
    op.add_column("adapters", sa.Column("gate_verdict", sa.Text(), nullable=True))
    with op.batch_alter_table("champions") as batch_op:
        batch_op.alter_column("adapter_id", existing_type=_number(), nullable=True)
    op.create_table(
        "promotions",
        sa.Column("id", _number(), nullable=False),
        sa.Column("check_name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("adapter_id", _number(), nullable=True),
        sa.Column("previous_id", _number(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", _time(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
    )
    op.create_index(
        op.f("ix_promotions_check_name_base_model_id"), "promotions", ["check_name", "base_model", "id"]
    )
    op.create_table(
        "refusals",
        sa.Column("id", _number(), nullable=False),
        sa.Column("adapter_id", _number(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", _time(), nullable=False),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name=op.f("fk_refusals_adapter_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refusals")),
    )
    op.create_index(op.f("ix_refusals_adapter_id"), "refusals", ["adapter_id"])
    # The history of a champion begins with the one that stands.
    op.execute(
        "INSERT INTO promotions (check_name, base_model, adapter_id, kind, why, at) "
        "SELECT check_name, base_model, adapter_id, 'shipped', 'in use before promotions were recorded', since FROM champions"
    )


def downgrade() -> None:
    for index in ("ix_labels_check_name_origin", "ix_labels_check_name_id"):
        op.drop_index(op.f(index), "labels")
    columns = {
        "images": ("replaced", "drawn", "rescan_of"),
        "scans": ("rescan_of",),
        "adapters": ("gate_verdict", "gate", "training_id"),
        "labels": ("note", "drawn", "settles", "undoes"),
    }
    for table in ("refusals", "promotions", "trainings", "labelled_images"):
        op.drop_table(table)
    op.execute("DELETE FROM champions WHERE adapter_id IS NULL")
    with op.batch_alter_table("champions") as batch_op:
        batch_op.alter_column("adapter_id", existing_type=_number(), nullable=False)
    for table, names in columns.items():
        with op.batch_alter_table(table) as batch_op:
            for name in names:
                batch_op.drop_column(name)
