"""Loads of tables that other flows than the daily job keep (see etl.daily).

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"

_UPGRADE = """
CREATE TABLE day_loads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL, logical_date date NOT NULL,
    run_id uuid NOT NULL, flow_run_id uuid NOT NULL, fence bigint NOT NULL, correlation_id text NOT NULL,
    rows bigint NOT NULL, loaded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX day_loads_day ON day_loads (table_name, logical_date, fence);
COMMENT ON TABLE day_loads IS 'One row a load of a day into a table of a flow of your own (etl.daily).'
"""


def upgrade() -> None:
    """Make the table."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("day_loads")
