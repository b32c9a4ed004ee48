"""The circuit to a pipeline's source, and the index that finds its last success."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"


def upgrade() -> None:
    """Add the column and the index."""
    op.add_column("pipelines", sa.Column("source_breaker", sa.Text))
    op.create_index(
        "runs_succeeded",
        "runs",
        ["pipeline", "ended_at"],
        postgresql_where=sa.text("state = 'Completed' AND state_name <> 'Degraded'"),
    )
