"""${message}

Rules: a migration runs on SQLite and PostgreSQL; workers of the previous version go on while it runs, so add columns
as nullable and drop them one release later; a column with a default is filled in the same migration.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
