"""Why runs do not go on, or ended, and the events that tell of it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the table, and let events be about a reason."""
    op.create_table(
        "reasons",
        sa.Column("run_id", sa.Uuid, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("fix", sa.Text, nullable=False),
        sa.Column("since", MOMENT, nullable=False),
    )
    op.add_column("run_events", sa.Column("reason", sa.Text))
    op.drop_constraint("run_events_kind_known", "run_events")
    op.create_check_constraint(
        "run_events_kind_known", "run_events", "kind IN ('submitted', 'changed', 'held', 'ended', 'explained')"
    )
