"""The table of experiments: one row for each cell that has ended."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base, one_of

CELL_STATES = ("done", "left_out")


class ExperimentCell(Base):
    """The result of one arm with one seed and one number of labels. A changed specification has another digest."""

    __tablename__ = "experiment_cells"
    __table_args__ = (
        one_of("state", CELL_STATES),
        sa.UniqueConstraint("digest", "arm", "seed", "size"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    experiment: Mapped[str]
    digest: Mapped[str]  # of the specification, the check and the images
    arm: Mapped[str]
    seed: Mapped[int]  # 0: nothing is learnt
    size: Mapped[int]  # labels
    state: Mapped[str]
    record: Mapped[dict[str, Any]]  # figures, costs, log-odds of each test image; or the reason why it is left out
    ended_at: Mapped[datetime]
