"""Models of departure delay, which the weekly training makes (flows/delay_model), and which of them is in use.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"

# The models are data: a format of numbers and names, of which nothing is executed when it is read.
_UPGRADE = """
CREATE TABLE delay_models (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id uuid NOT NULL, flow_run_id uuid NOT NULL, fence bigint NOT NULL, correlation_id text NOT NULL,
    logical_date date NOT NULL,
    first_day date NOT NULL, held_out_from date NOT NULL, last_day date NOT NULL,
    days integer NOT NULL, rows bigint NOT NULL,
    metrics jsonb NOT NULL, importances jsonb NOT NULL,
    model bytea NOT NULL, checksum text NOT NULL,
    in_use boolean NOT NULL DEFAULT false, note text NOT NULL,
    trained_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX delay_models_in_use ON delay_models (in_use) WHERE in_use;
CREATE INDEX delay_models_run_id ON delay_models (run_id, id);
COMMENT ON TABLE delay_models IS 'A row a training; in_use: the one model to predict with; note: why it is, or is not.';
COMMENT ON COLUMN delay_models.held_out_from IS 'Fitted on the days before it, judged on those from it on.'
"""


def upgrade() -> None:
    """Make the table."""
    for statement in _UPGRADE.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    """Drop the table and the models in it."""
    op.drop_table("delay_models")
