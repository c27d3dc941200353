"""Which image is before which person: no image is handed to two people within a lease."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from scanfleet.db.base import Base


class ReviewLease(Base):
    """An image, by its bytes, that a person has before them or has skipped. Decisions delete it; it ends by itself."""

    __tablename__ = "review_leases"
    __table_args__ = (sa.Index(None, "expires_at"),)

    check_name: Mapped[str] = mapped_column(primary_key=True)
    content_sha256: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]  # one open page of one token
    skipped: Mapped[bool]  # others may take it; its holder is not asked again within the lease
    expires_at: Mapped[datetime]
