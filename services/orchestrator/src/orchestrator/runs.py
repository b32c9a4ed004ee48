"""What a run is: its states and which may follow which, the day it is about, and the parameters it may carry.

Nothing here does I/O: the database and Prefect are told and asked elsewhere, in these words.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jsonschema_rs

from orchestrator.errors import EngineConfused, InvalidRequest

Origin = Literal["api", "schedule", "prefect"]

CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
DEEPEST = 32
MOST_BACKTRACKING = 100_000  # steps that a pattern in a schema may take over a caller's text
LARGEST_INTEGER = 2**63 - 1
# Names by which Prefect finds something else to put there: its server a template, the flow's process a stored block.
REFERENCES = {"__prefect_kind": "a Prefect template", "$ref": "a reference to a Prefect block"}
TEMPLATE = re.compile(r"\{\{|\{%|\{#")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class State(StrEnum):
    """Prefect's own state types, in the spelling people read."""

    SCHEDULED = "Scheduled"
    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CRASHED = "Crashed"
    CANCELLING = "Cancelling"
    CANCELLED = "Cancelled"
    PAUSED = "Paused"

    @classmethod
    def of(cls, state_type: str) -> "State":
        """The state for Prefect's `state_type`. Raises EngineConfused for one that is not listed here."""
        try:
            return _BY_TYPE[state_type]
        except KeyError:
            raise EngineConfused(
                f"Prefect reports a state type {state_type!r} that this version does not know; "
                "run the Prefect version this release is built for"
            ) from None

    @property
    def ended(self) -> bool:
        """Whether a run in this state is over."""
        return self in TERMINAL

    def may_become(self, later: "State") -> bool:
        """Whether a run recorded in this state may afterwards be recorded in `later`.

        Ends are final, but for Crashed: Prefect gives up on a pod that is slow or silent, and the pod may yet finish
        (https://github.com/PrefectHQ/prefect/issues/16429).
        """
        return not self.ended or (self is State.CRASHED and later is not State.CRASHED)


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CRASHED, State.CANCELLED})
_BY_TYPE = {state.upper(): state for state in State}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule of a deployment; exactly one of cron, interval (seconds) and rrule is set."""

    slug: str | None = None
    cron: str | None = None
    interval: float | None = None
    rrule: str | None = None
    timezone: str = "UTC"
    active: bool = True


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What Prefect last told of a pipeline's deployment."""

    deployment: str
    deployment_id: UUID
    flow: str
    parameter_schema: Mapping[str, Any]
    defaults: Mapping[str, Any]
    schedules: tuple[Schedule, ...]
    paused: bool

    @property
    def timezone(self) -> ZoneInfo:
        """The timezone whose days the pipeline's logical dates are: that of its first active schedule, else UTC."""
        for schedule in sorted(self.schedules, key=lambda one: not one.active):
            try:
                return ZoneInfo(schedule.timezone)
            except (ZoneInfoNotFoundError, ValueError):
                continue
        return ZoneInfo("UTC")

    @property
    def dated(self) -> bool:
        """Whether the flow takes the logical date as a parameter."""
        return "logical_date" in self.parameter_schema.get("properties", {})

    @cached_property
    def validator(self) -> jsonschema_rs.Draft202012Validator:
        """What checks parameters against the schema: made once, it costs more than its use. Raises EngineConfused."""
        try:
            return jsonschema_rs.Draft202012Validator(
                dict(self.parameter_schema),
                validate_formats=True,
                offline=True,  # a $ref to another host is never fetched
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=MOST_BACKTRACKING),
            )
        except jsonschema_rs.ValidationError as exc:
            raise EngineConfused(
                f"the parameter schema of {self.deployment} cannot be used ({exc.message[:300]}); "
                "correct it and register it again"
            ) from exc


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """What Prefect says of one flow run."""

    flow_run_id: UUID
    deployment_id: UUID | None
    idempotency_key: str | None
    origin: Origin
    tags: tuple[str, ...] = ()
    traceparent: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    state: State
    state_name: str
    message: str | None
    at: datetime
    expected_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    next_at: datetime | None = None  # when a worker may take it, while it is Scheduled
    pool: str | None = None
    queue: str | None = None
    pod_of: UUID | None = None  # the flow run in whose pod it is executed, where it has none of its own

    @property
    def correlation_id(self) -> str:
        """The one its tags carry, else its own id."""
        for tag in self.tags:
            name, _, value = tag.partition(":")
            if name == "correlation-id" and CORRELATION_ID.fullmatch(value):
                return value
        return str(self.flow_run_id)  # as the flow itself does, which knows nobody else's either

    @property
    def duration_ms(self) -> int | None:
        """See `duration_ms` of this module."""
        return duration_ms(self.started_at, self.ended_at)


def duration_ms(started_at: datetime | None, ended_at: datetime | None) -> int | None:
    """Whole milliseconds a run took; 0 when it ended without a start, None while it is not over."""
    if ended_at is None:
        return None
    # never negative: a run that another host started and a third one ended has seen three clocks
    return max(0, round((ended_at - (started_at or ended_at)) / timedelta(milliseconds=1)))


def day_before(moment: datetime, zone: ZoneInfo) -> date:
    """The calendar day before the one `moment` falls on in `zone`: the day a run started then is about."""
    return moment.astimezone(zone).date() - timedelta(days=1)


def parse_day(text: str, *, name: str = "logical_date") -> date:
    """The day written as YYYY-MM-DD. Raises InvalidRequest, which calls it by `name`."""
    if not DAY.fullmatch(text):
        raise InvalidRequest(f"{name} {text[:40]!r} is not a date; write it as YYYY-MM-DD")
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise InvalidRequest(f"{name} {text} is not a day of the calendar ({exc}); correct it") from exc


def logical_date(given: str | None, *, zone: ZoneInfo, now: datetime | None = None) -> date:
    """The day a run is about: the one given, else yesterday in `zone`.

    Raises InvalidRequest for text that is not YYYY-MM-DD and for a day that has not come yet in `zone`.
    """
    now = now or datetime.now(UTC)
    if given is None:
        return day_before(now, zone)
    day = parse_day(given)
    today = now.astimezone(zone).date()
    if day > today:
        raise InvalidRequest(f"logical_date {given} lies in the future; the latest is today, {today} in {zone.key}")
    return day


def parameters(facts: Facts, given: Mapping[str, Any], day: date) -> dict[str, Any]:
    """The parameters to hand to Prefect: those given, checked against the deployment's schema, and the logical date.

    Raises InvalidRequest naming the parameter and what is wrong with it. Templates are refused: Prefect's server
    would fill them in with its own variables (PrefectHQ/prefect server/api/deployments.py hydrates parameters).
    """
    if "logical_date" in given:
        raise InvalidRequest("parameters.logical_date: give logical_date beside parameters, not inside")
    properties = facts.parameter_schema.get("properties", {})
    unknown = sorted(set(given) - set(properties))
    if unknown:
        known = ", ".join(sorted(set(properties) - {"logical_date"})) or "none"
        raise InvalidRequest(f"parameters.{unknown[0][:80]} is not a parameter of {facts.flow}; it takes: {known}")
    _refuse_unsendable(given, "parameters")
    sent = dict(given) | ({"logical_date": day.isoformat()} if facts.dated else {})
    for problem in facts.validator.iter_errors(dict(facts.defaults) | sent):
        path = list(problem.instance_path)
        # a default may be a template that Prefect fills in: it is the deployment's business, not the caller's
        if not path or path[0] in sent:
            where = ".".join(["parameters", *map(str, path)])
            raise InvalidRequest(f"{where[:200]}: {problem.message[:300]}; see the deployment's parameter schema")
    return sent


def _refuse_unsendable(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what Prefect would expand and what JSON in a database cannot hold."""
    if depth > DEEPEST:
        raise InvalidRequest(f"{where[:80]} is nested deeper than {DEEPEST} levels; flatten it")
    if isinstance(value, str):
        if TEMPLATE.search(value):
            raise InvalidRequest(f"{where} holds a template; Prefect would fill it in, so send the value itself")
        if "\x00" in value or (not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value)):
            raise InvalidRequest(f"{where} holds a NUL or half a surrogate pair, which cannot be stored; remove it")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{where} is not a finite number, which JSON does not have; send a number")
    elif isinstance(value, int | float) and abs(value) > LARGEST_INTEGER:
        # of a float too: the database writes it without an exponent, and Prefect cannot store what comes of that
        raise InvalidRequest(f"{where} is beyond 64 bits, which not every reader of JSON has; send it as a string")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in REFERENCES:
                raise InvalidRequest(f"{where} holds {REFERENCES[key]} ({key}); send the value itself")
            _refuse_unsendable(key, f"{where}, a name in it,", depth)
            _refuse_unsendable(inner, f"{where}.{key[:80]}", depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_unsendable(inner, f"{where}.{index}", depth + 1)


def day_of(flow_run: FlowRun, facts: Facts) -> date:
    """The day an adopted run is about: its logical_date parameter, else the day before it was due."""
    given = flow_run.parameters.get("logical_date")
    if isinstance(given, str) and DAY.match(given):
        try:
            return date.fromisoformat(given[:10])
        except ValueError:
            pass
    return day_before(flow_run.expected_at, facts.timezone)
