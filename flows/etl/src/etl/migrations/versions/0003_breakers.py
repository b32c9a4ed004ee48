"""Breakers: the circuit breaker that all runs share (see etl.breaker); each load says whether it is a degraded one.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"

_UPGRADE = """
CREATE TABLE breakers (
    name text PRIMARY KEY,
    state text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half-open')),
    generation bigint NOT NULL DEFAULT 0,
    failures timestamptz[] NOT NULL DEFAULT '{}',
    opened_at timestamptz, probe_until timestamptz,
    isolated boolean NOT NULL DEFAULT false, reason text,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE breakers IS 'One row a service; change it with python -m etl.breaker isolate or reset.';
ALTER TABLE loads ADD COLUMN outcome text NOT NULL DEFAULT 'loaded' CHECK (outcome IN ('loaded', 'degraded'));
ALTER TABLE loads ADD COLUMN note text;
COMMENT ON COLUMN loads.outcome IS 'degraded: the source was given up, the date kept what it held; note says why.'
"""


def upgrade() -> None:
    """Make the table and the columns."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop them; loads stay, degraded ones included."""
    op.drop_column("loads", "note")
    op.drop_column("loads", "outcome")
    op.drop_table("breakers")
