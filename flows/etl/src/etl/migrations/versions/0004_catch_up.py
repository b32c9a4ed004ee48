"""Catch-up: which degraded loads got a run that loads the day again (see etl.catchup), and a load is found by its run.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"

_UPGRADE = """
ALTER TABLE loads ADD COLUMN catch_up uuid;
COMMENT ON COLUMN loads.catch_up IS 'The flow run made to load a degraded day again; empty while it is owed.';
CREATE INDEX loads_run_id ON loads (run_id, id);
CREATE INDEX loads_owed ON loads (logical_date, id) WHERE outcome = 'degraded' AND catch_up IS NULL;
ALTER TABLE breakers ADD COLUMN openings integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN breakers.openings IS 'How often it opened since it was last closed, each failed probe included.'
"""


def upgrade() -> None:
    """Make the columns and indexes."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop them; loads stay."""
    op.drop_column("breakers", "openings")
    op.drop_index("loads_run_id")
    op.drop_column("loads", "catch_up")
