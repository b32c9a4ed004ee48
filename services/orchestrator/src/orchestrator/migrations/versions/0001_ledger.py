"""The ledger: pipelines, runs and their events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

STATES = (
    "state IN ('Scheduled', 'Pending', 'Running', 'Completed', 'Failed', 'Crashed', "
    "'Cancelling', 'Cancelled', 'Paused')"
)
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the three tables and their indexes."""
    op.create_table(
        "pipelines",
        sa.Column("pipeline", sa.Text, primary_key=True),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("deployment_id", sa.Uuid, nullable=False),
        sa.Column("parameter_schema", JSONB, nullable=False),
        sa.Column("defaults", JSONB, nullable=False),
        sa.Column("schedules", JSONB, nullable=False),
        sa.Column("next_starts", JSONB, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("missing_since", MOMENT),
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Uuid, primary_key=True),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("flow_run_id", sa.Uuid, unique=True),
        sa.Column("logical_date", sa.Date, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_name", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("parameters", JSONB, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("traceparent", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("request_digest", sa.Text),
        sa.Column("accepted_at", MOMENT, nullable=False),
        sa.Column("dispatched_at", MOMENT),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("dispatch_attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", MOMENT),
        sa.Column("steps_aside", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("last_error", sa.Text),
        sa.CheckConstraint(STATES, name="runs_state_known"),
        sa.CheckConstraint("origin IN ('api', 'schedule', 'prefect')", name="runs_origin_known"),
        sa.CheckConstraint(
            "(state IN ('Cancelled', 'Completed', 'Crashed', 'Failed')) = (ended_at IS NOT NULL)",
            name="runs_ended_when_over",
        ),
    )
    newest = [sa.text("accepted_at DESC"), sa.text("run_id DESC")]
    waiting = sa.text("dispatched_at IS NULL AND ended_at IS NULL")
    op.create_index("runs_recent", "runs", ["pipeline", *newest])
    op.create_index("runs_by_state", "runs", ["pipeline", "state", *newest])
    op.create_index("runs_by_day", "runs", ["pipeline", "logical_date", *newest])
    op.create_index("runs_waiting", "runs", ["pipeline", "accepted_at", "run_id"], postgresql_where=waiting)
    op.create_index(
        "runs_unfinished", "runs", ["pipeline", "accepted_at"], postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_index("runs_crashed", "runs", ["ended_at"], postgresql_where=sa.text("state = 'Crashed'"))
    op.create_index(
        "runs_by_key",
        "runs",
        ["pipeline", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "run_events",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("run_id", sa.Uuid, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("pipeline", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_name", sa.Text, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("duration_ms", sa.BigInteger),
        sa.CheckConstraint("kind IN ('submitted', 'changed', 'ended')", name="run_events_kind_known"),
        sa.CheckConstraint(STATES, name="run_events_state_known"),
    )
    latest = sa.text("id DESC")
    op.create_index("run_events_of_run", "run_events", ["run_id", "id"])
    op.create_index("run_events_recent", "run_events", ["pipeline", latest])
    reported = sa.text("kind <> 'changed'")
    op.create_index("run_events_by_state", "run_events", ["pipeline", "state", latest], postgresql_where=reported)
    op.create_index("run_events_reported", "run_events", ["pipeline", latest], postgresql_where=reported)
