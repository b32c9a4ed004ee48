"""Wishes to cancel runs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table and the index that finds what is left to do."""
    op.create_table(
        "cancellations",
        sa.Column("run_id", sa.Uuid, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("sent_at", MOMENT),
        sa.Column("settled_at", MOMENT),
        sa.Column("next_attempt_at", MOMENT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.Text),
    )
    op.create_index(
        "cancellations_open", "cancellations", ["next_attempt_at"], postgresql_where=sa.text("settled_at IS NULL")
    )
