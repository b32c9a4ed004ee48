"""Claims: who executes a flow run and whose load of a date counts (see etl.claim); each load records its fence.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"

# An identity never hands out a smaller number later, so it is the fence of every date at once.
_UPGRADE = """
CREATE TABLE claims (
    fence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    flow_run_id uuid NOT NULL, attempt timestamptz NOT NULL,
    run_id uuid, logical_date date,
    holder text NOT NULL, claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(), lease_until timestamptz NOT NULL
);
CREATE INDEX claims_flow_run_id ON claims (flow_run_id, fence);
CREATE INDEX claims_logical_date ON claims (logical_date, fence);
COMMENT ON TABLE claims IS 'One row an attempt at a flow run; attempt: when Prefect scheduled it; the newest holds.';
ALTER TABLE loads ADD COLUMN fence bigint;
COMMENT ON COLUMN loads.fence IS 'The claim under which it was loaded; empty in loads older than claims.'
"""


def upgrade() -> None:
    """Make the table."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop the table; loads stay."""
    op.drop_column("loads", "fence")
    op.drop_table("claims")
