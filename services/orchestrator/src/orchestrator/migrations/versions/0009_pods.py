"""Pods that execute several runs of a backfill, one after another."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns, and the index that finds the runs of a pod."""
    op.add_column("backfills", sa.Column("runs_per_pod", sa.Integer, nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("pod_of", sa.Uuid))
    op.create_index("runs_by_pod", "runs", ["pod_of"], postgresql_where=sa.text("pod_of IS NOT NULL"))
