"""Everything that can go wrong on purpose: one flat tree, one HTTP status each (`orchestrator.api.problems` has it).

OrchestratorError
  InvalidRequest       the caller sent something that cannot be a run, a date, a page or a parameter
  KeyReused            an Idempotency-Key came back with another body
  HeadTooLarge         the request has more or longer headers than this service reads
  BodyTooLarge         the request body is longer than this service reads
  BodyTooSlow          the request body did not come in time
  Unauthenticated      no credential, or one that proves nothing
  Forbidden            the caller is known and may not do this
  TooManyRequests      the caller comes too often, or holds too many streams open
  DoorUnavailable      who calls, or what they may do, cannot be found out now
  UnknownPipeline      no pipeline of that name is configured
  UnknownRun           no run with that id in that pipeline
  RunOver              a run that has ended cannot be cancelled any more
  UnknownBackfill      no backfill with that id in that pipeline
  PlanChanged          a backfill would do something else now than what was shown
  BackfillOver         a cancelled backfill cannot be paused or resumed
  DeploymentMissing    a configured pipeline has no deployment in Prefect yet
  EngineUnavailable    Prefect cannot be reached, or says it cannot serve now
  EngineRefused        Prefect understood and said no, and will say no again
  EngineConfused       Prefect answered something this service does not know
  KubernetesUnavailable  the cluster's API cannot be reached, or cannot serve now
  KubernetesRefused    the cluster's API says no, and will say no again
  LedgerUnavailable    the database cannot be reached, or its tables are not there
  SchemaMismatch       the database's schema and this image do not belong together
"""

from collections.abc import Sequence


class OrchestratorError(Exception):
    """Base of the tree. `str(error)` is written for the caller: what is wrong and what to do about it.

    `retry_after` is in seconds and set where waiting helps.
    """

    def __init__(self, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class InvalidRequest(OrchestratorError):
    """The caller sent something that cannot be what it should be."""


class KeyReused(OrchestratorError):
    """An Idempotency-Key came back with a body other than its first."""


class BodyTooLarge(OrchestratorError):
    """The request body is longer than this service reads."""


class HeadTooLarge(OrchestratorError):
    """The request has more or longer headers than this service reads."""


class BodyTooSlow(OrchestratorError):
    """The request body did not come in time."""


class Unauthenticated(OrchestratorError):
    """No credential, or one that proves nothing. `challenge` is what WWW-Authenticate says."""

    def __init__(self, detail: str, *, challenge: str) -> None:
        super().__init__(detail)
        self.challenge = challenge


class Forbidden(OrchestratorError):
    """The caller is known and may not do this."""


class TooManyRequests(OrchestratorError):
    """The caller comes too often, or holds too many streams open."""


class DoorUnavailable(OrchestratorError):
    """Who calls, or what they may do, cannot be found out now: nobody is let in on trust."""


class UnknownPipeline(OrchestratorError):
    """No pipeline of that name is configured."""


class UnknownRun(OrchestratorError):
    """No run with that id in that pipeline."""


class RunOver(OrchestratorError):
    """A run that has ended cannot be cancelled any more."""


class UnknownBackfill(OrchestratorError):
    """No backfill with that id in that pipeline."""


class PlanChanged(OrchestratorError):
    """A backfill would do something else now than what was shown; `differences` names each date, and how."""

    def __init__(self, detail: str, differences: Sequence[tuple[str, str]]) -> None:
        super().__init__(detail)
        self.differences = differences


class BackfillOver(OrchestratorError):
    """A cancelled backfill cannot be paused or resumed."""


class DeploymentMissing(OrchestratorError):
    """A configured pipeline has no deployment in Prefect: it has not been registered."""


class EngineUnavailable(OrchestratorError):
    """Prefect cannot be reached or cannot serve now; the same call may succeed later."""


class EngineRefused(OrchestratorError):
    """Prefect understood the call and said no; the same call will not succeed later. `status` is Prefect's own."""

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


class EngineConfused(OrchestratorError):
    """Prefect answered in a shape or with a state this service does not know."""


class KubernetesUnavailable(OrchestratorError):
    """The cluster's API cannot be reached or cannot serve now; the same call may succeed later."""


class KubernetesRefused(OrchestratorError):
    """The cluster's API said no; the same call will not succeed later. `status` is its own."""

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


class LedgerUnavailable(OrchestratorError):
    """The database cannot be reached, or its tables are not there."""


class SchemaMismatch(OrchestratorError):
    """The database's schema is not the one this image works with."""
