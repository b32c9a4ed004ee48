"""What a run that stopped on its way has behind it: its attempt, its last crash, why it was given up."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the columns and the index that finds the runs to be rerun."""
    op.add_column("runs", sa.Column("attempt", sa.Integer, nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("crashed_at", MOMENT))
    op.add_column("runs", sa.Column("crash", sa.Text))
    op.add_column("runs", sa.Column("rerun_due", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("runs", sa.Column("waits_since", MOMENT))
    op.add_column("runs", sa.Column("given_up", sa.Text))
    op.create_index("runs_to_rerun", "runs", ["crashed_at"], postgresql_where=sa.text("ended_at IS NULL AND rerun_due"))
    op.add_column("pipelines", sa.Column("watched_at", MOMENT))
