"""The ledger's tables and the index behind each question asked of them.

The migrations say the same in their own words; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    and_,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.runs import TERMINAL, State

metadata = MetaData()
Moment = DateTime(timezone=True)


def _listed(values: list[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


STATES = _listed([str(state) for state in State])
ENDED = _listed(sorted(str(state) for state in TERMINAL))

# What Prefect last told of each pipeline: enough to accept, to date and to show runs while Prefect is away.
pipelines = Table(
    "pipelines",
    metadata,
    Column("pipeline", Text, primary_key=True),
    Column("deployment", Text, nullable=False),
    Column("deployment_id", Uuid, nullable=False),
    Column("parameter_schema", JSONB, nullable=False),
    Column("defaults", JSONB, nullable=False),
    Column("schedules", JSONB, nullable=False),
    Column("next_starts", JSONB, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("missing_since", Moment),
    # the state of the circuit between the flow and its source; None until it has first changed
    Column("source_breaker", Text),
    # when a look last found out which of its runs have stopped on their way
    Column("watched_at", Moment),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", Uuid, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("flow_run_id", Uuid, unique=True),
    Column("logical_date", Date, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_name", Text, nullable=False),
    Column("message", Text),
    Column("parameters", JSONB, nullable=False),
    Column("origin", Text, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("traceparent", Text),
    Column("idempotency_key", Text),
    Column("request_digest", Text),
    Column("accepted_at", Moment, nullable=False),
    Column("dispatched_at", Moment),
    Column("started_at", Moment),
    Column("ended_at", Moment),
    Column("dispatch_attempts", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", Moment),
    # whether younger runs may be handed over while this one waits for its next attempt
    Column("steps_aside", Boolean, nullable=False, server_default=false()),
    Column("last_error", Text),
    Column("backfill_id", Uuid, ForeignKey("backfills.id")),
    # which execution of the run this is; only a lost process makes it grow
    Column("attempt", Integer, nullable=False, server_default="1"),
    # the crash that the present attempt follows: when it was, what was said of it, whether Prefect has yet to rerun it
    Column("crashed_at", Moment),
    Column("crash", Text),
    Column("rerun_due", Boolean, nullable=False, server_default=false()),
    # from when the start deadline counts, where that is not the hand-over
    Column("waits_since", Moment),
    # why the run is to end whatever attempts are left
    Column("given_up", Text),
    # the flow run in whose pod this one was executed, where it had none of its own
    Column("pod_of", Uuid),
    CheckConstraint(f"state IN ({STATES})", name="runs_state_known"),
    CheckConstraint("origin IN ('api', 'schedule', 'prefect')", name="runs_origin_known"),
    CheckConstraint(
        f"(state IN ({ENDED})) = (ended_at IS NOT NULL)",
        name="runs_ended_when_over",
    ),
)

waiting = and_(runs.c.dispatched_at.is_(None), runs.c.ended_at.is_(None))
# a run of a backfill that is not let go yet
held = and_(runs.c.backfill_id.is_not(None), waiting, runs.c.next_attempt_at.is_(None))
unfinished = runs.c.ended_at.is_(None)

Index("runs_recent", runs.c.pipeline, runs.c.accepted_at.desc(), runs.c.run_id.desc())
Index("runs_by_state", runs.c.pipeline, runs.c.state, runs.c.accepted_at.desc(), runs.c.run_id.desc())
Index("runs_by_day", runs.c.pipeline, runs.c.logical_date, runs.c.accepted_at.desc(), runs.c.run_id.desc())
Index("runs_waiting", runs.c.pipeline, runs.c.accepted_at, runs.c.run_id, postgresql_where=waiting)
Index("runs_unfinished", runs.c.pipeline, runs.c.accepted_at, postgresql_where=unfinished)
Index("runs_crashed", runs.c.ended_at, postgresql_where=text("state = 'Crashed'"))
succeeded = and_(runs.c.state == State.COMPLETED, runs.c.state_name != "Degraded")
Index(
    "runs_succeeded",
    runs.c.pipeline,
    runs.c.ended_at,
    postgresql_where=text("state = 'Completed' AND state_name <> 'Degraded'"),
)
Index("runs_to_rerun", runs.c.crashed_at, postgresql_where=and_(unfinished, runs.c.rerun_due))
Index("runs_of_backfill", runs.c.backfill_id, runs.c.logical_date, postgresql_where=runs.c.backfill_id.is_not(None))
Index("runs_by_pod", runs.c.pod_of, postgresql_where=runs.c.pod_of.is_not(None))
Index("runs_held", runs.c.backfill_id, runs.c.logical_date, postgresql_where=held)
Index(
    "runs_by_key",
    runs.c.pipeline,
    runs.c.idempotency_key,
    unique=True,
    postgresql_where=runs.c.idempotency_key.is_not(None),
)

# Plans that were shown; those with a created_at were carried out. `plan` lists each day: date, whether in, why.
backfills = Table(
    "backfills",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("first_date", Date, nullable=False),
    Column("last_date", Date, nullable=False),
    Column("mode", Text, nullable=False),
    Column("max_concurrent", Integer, nullable=False),
    Column("runs_per_pod", Integer, nullable=False, server_default="1"),
    Column("plan", JSONB, nullable=False),
    Column("shown_at", Moment, nullable=False),
    Column("created_at", Moment),
    Column("paused_at", Moment),
    Column("cancelled_at", Moment),
    UniqueConstraint("pipeline", "digest", name="backfills_once"),
)

# One row for each run that somebody asked to cancel, until there is nothing left to do about it.
cancellations = Table(
    "cancellations",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.run_id"), primary_key=True),
    Column("asked_at", Moment, nullable=False),
    Column("sent_at", Moment),
    Column("settled_at", Moment),
    Column("next_attempt_at", Moment, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("last_error", Text),
)

Index("cancellations_open", cancellations.c.next_attempt_at, postgresql_where=cancellations.c.settled_at.is_(None))

# Why a run does not go on, or ended: at most one row a run. A row of its own, as above.
reasons = Table(
    "reasons",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.run_id"), primary_key=True),
    Column("id", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("fix", Text, nullable=False),
    Column("since", Moment, nullable=False),
)

# Append-only: every state a run was seen in, and every reason. `kind` is submitted, changed or ended, held
# when what holds it changes, explained when it is known why it ended; `reason` is then the reason's id.
run_events = Table(
    "run_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", Uuid, ForeignKey("runs.run_id"), nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_name", Text, nullable=False),
    Column("message", Text),
    Column("duration_ms", BigInteger),
    Column("reason", Text),
    CheckConstraint("kind IN ('submitted', 'changed', 'held', 'ended', 'explained')", name="run_events_kind_known"),
    CheckConstraint(f"state IN ({STATES})", name="run_events_state_known"),
)

Index("run_events_of_run", run_events.c.run_id, run_events.c.id)
Index("run_events_recent", run_events.c.pipeline, run_events.c.id.desc())
Index(
    "run_events_by_state",
    run_events.c.pipeline,
    run_events.c.state,
    run_events.c.id.desc(),
    postgresql_where=run_events.c.kind != "changed",
)
Index(
    "run_events_reported",
    run_events.c.pipeline,
    run_events.c.id.desc(),
    postgresql_where=run_events.c.kind != "changed",
)
