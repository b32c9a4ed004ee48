"""Delays by the hour of departure, for each date (see etl.figures); made from the flights for dates loaded before.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"

# An average of many dates must not have to read their flights.
_UPGRADE = """
CREATE TABLE daily_hour_delay (
    logical_date date NOT NULL, hour smallint NOT NULL,
    flights bigint NOT NULL, cancelled bigint NOT NULL,
    mean_delay double precision, p95_delay double precision,
    PRIMARY KEY (logical_date, hour)
);
COMMENT ON TABLE daily_hour_delay IS 'By the local hour a departure was scheduled for, 0 to 23; delays in minutes.';
INSERT INTO daily_hour_delay
SELECT logical_date, sched_dep_time / 100 % 24, count(*), count(*) - count(dep_delay), avg(dep_delay),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY dep_delay)
FROM flights GROUP BY 1, 2
"""


def upgrade() -> None:
    """Make the table and fill it."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("daily_hour_delay")
