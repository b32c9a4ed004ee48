"""The daily tables: flights with weather, delays by carrier and origin, rejects, and a record of every load.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None

# Text and id columns carry the types that binary COPY from Arrow writes: a string has no way into uuid or jsonb.
_UPGRADE = """
CREATE TABLE flights (
    logical_date date NOT NULL,
    year smallint, month smallint, day smallint,
    dep_time smallint, sched_dep_time smallint NOT NULL, dep_delay integer,
    arr_time smallint, sched_arr_time smallint, arr_delay integer,
    carrier text NOT NULL, flight integer NOT NULL, tailnum text,
    origin text NOT NULL, dest text NOT NULL,
    air_time integer, distance integer NOT NULL,
    hour smallint, minute smallint, time_hour timestamptz NOT NULL,
    weather_temp double precision, weather_humid double precision,
    weather_wind_speed double precision, weather_wind_gust double precision,
    weather_precip double precision, weather_pressure double precision, weather_visib double precision
);
CREATE INDEX flights_logical_date ON flights (logical_date);
COMMENT ON TABLE flights IS 'A row a scheduled departure; weather_* is its origin''s in that hour; delays in minutes.';

CREATE TABLE daily_carrier_delay (
    logical_date date NOT NULL, carrier text NOT NULL,
    flights bigint NOT NULL, cancelled bigint NOT NULL,
    mean_delay double precision, p95_delay double precision,
    PRIMARY KEY (logical_date, carrier)
);
CREATE TABLE daily_origin_delay (
    logical_date date NOT NULL, origin text NOT NULL,
    flights bigint NOT NULL, cancelled bigint NOT NULL,
    mean_delay double precision, p95_delay double precision,
    PRIMARY KEY (logical_date, origin)
);

CREATE TABLE rejects (
    logical_date date NOT NULL, reason text NOT NULL, record text NOT NULL,
    run_id text NOT NULL, recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejects_logical_date ON rejects (logical_date);
COMMENT ON TABLE rejects IS 'Rows that broke a rule: the reason, and the record as JSON; replaced with their date.';

CREATE TABLE loads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL, flow_run_id uuid NOT NULL, correlation_id text NOT NULL,
    logical_date date NOT NULL, rows bigint NOT NULL, rejected bigint NOT NULL, checksum text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX loads_logical_date ON loads (logical_date, id);
COMMENT ON TABLE loads IS 'One row a load, appended; the newest row of a date says what its tables hold.';
"""


def upgrade() -> None:
    """Make the tables."""
    for statement in _UPGRADE.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables and what they hold."""
    for table in ("loads", "rejects", "daily_origin_delay", "daily_carrier_delay", "flights"):
        op.drop_table(table)
