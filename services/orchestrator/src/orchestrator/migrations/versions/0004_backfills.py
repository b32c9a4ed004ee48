"""Backfills, and the runs that belong to one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table, the runs' column and the indexes that find a backfill's runs."""
    op.create_table(
        "backfills",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("first_date", sa.Date, nullable=False),
        sa.Column("last_date", sa.Date, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("max_concurrent", sa.Integer, nullable=False),
        sa.Column("plan", JSONB, nullable=False),
        sa.Column("shown_at", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT),
        sa.Column("paused_at", MOMENT),
        sa.Column("cancelled_at", MOMENT),
        sa.UniqueConstraint("pipeline", "digest", name="backfills_once"),
    )
    op.add_column("runs", sa.Column("backfill_id", sa.Uuid, sa.ForeignKey("backfills.id")))
    op.create_index(
        "runs_of_backfill",
        "runs",
        ["backfill_id", "logical_date"],
        postgresql_where=sa.text("backfill_id IS NOT NULL"),
    )
    op.create_index(
        "runs_held",
        "runs",
        ["backfill_id", "logical_date"],
        postgresql_where=sa.text(
            "backfill_id IS NOT NULL AND dispatched_at IS NULL AND ended_at IS NULL AND next_attempt_at IS NULL"
        ),
    )
