"""${message}

Rules: a migration runs on SQLite and PostgreSQL; workers of the previous version go on while it runs, so add columns
as nullable and drop them one release later; a column with a default is filled in the same migration.
A migration that older code does not survive (it drops or renames what that code uses) names the oldest revision whose
code works afterwards: `--rev-id 0010-0009`. All later ones repeat or raise that number: `0011-0009`. Commands need their own
revision; workers also run on a newer one that does not rule them out.
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
