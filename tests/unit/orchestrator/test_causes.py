"""Why a run failed, from what Prefect, its pod and its log say at the end."""

from typing import Any

import pytest
from orchestrator import causes
from orchestrator.holds import Finding
from orchestrator.runs import State
from orchestrator.workloads import Condition

from .test_holds import ago, found
from .test_placement import container, pod

SAID = "Flow run encountered an exception: "
TRACEBACK = """Encountered exception during execution: KeyError('carrier')
Traceback (most recent call last):
  File "/app/.venv/lib/python3.13/site-packages/prefect/flow_engine.py", line 900, in run_context
    yield self
  File "/app/src/etl/transform.py", line 41, in transform
    row["carrier"]
    ~~~^^^^^^^^^^^
KeyError: 'carrier'
"""


def cause(**more: Any) -> Finding:
    plain = {
        "state": State.FAILED,
        "state_name": "Failed",
        "message": None,
        "handed_over": True,
        "pod": None,
        "last_error": None,
    }
    return causes.cause(**plain | more)


RAISED = [
    ("PL101", "SourceUnavailable: GET /flights: 503"),
    ("PL101", "etl.errors.SourceUnavailable: GET /flights: 503"),
    ("PL101", "CircuitOpen: given up for now"),
    ("PL102", "SourceRefused: 404"),
    ("PL103", "BadData: 40 % of the rows"),
    ("PL104", "TimeoutError"),
    ("PL104", "FlowRunTimeoutError: Flow run exceeded timeout of 5.0 second(s)"),
    ("PL105", "MemoryError"),
    ("PL115", "delay_model.errors.TooFewDays: 3 days from 2026-01-01 on are loaded"),
    ("PL116", "StaleDays: the newest loaded day before 2026-03-01 is 2026-01-31"),
    ("PL107", "KeyError: 'carrier'"),
]


@pytest.mark.parametrize(("kind", "error"), RAISED)
def test_the_errors_type_is_the_cause(kind: str, error: str) -> None:
    """Its text is kept as evidence."""
    got, detail = found(cause(message=SAID + error))
    assert got == kind
    assert error in detail


def test_a_code_error_carries_its_last_line() -> None:
    """File, line, function and code of where it was raised."""
    _, detail = found(cause(message=SAID + "KeyError: 'carrier'", last_error=TRACEBACK))
    assert 'etl/transform.py:41 in transform: row["carrier"]' in detail
    assert "/app" not in detail


def test_a_timed_out_state_is_a_timeout() -> None:
    """Prefect names it itself."""
    assert found(cause(state_name="TimedOut", message="Flow run exceeded timeout of 5.0 second(s)"))[0] == "PL104"


def test_out_of_memory_is_told_from_eviction_and_from_a_crash() -> None:
    """All three end with exit code 137 or none; what the kubelet says decides."""
    crashed = {"state": State.CRASHED, "state_name": "Crashed", "message": "Process exited with status code: 137"}
    ended = {"exit_code": 137, "started_at": ago(60), "ended_at": ago(5)}
    oom = pod(container(terminated="OOMKilled", **ended), phase="Failed")
    assert found(cause(**crashed, pod=oom))[0] == "PL105"
    pressed = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    kind, detail = found(cause(**crashed, pod=pressed))
    assert kind == "PL106"
    assert "low on resource" in detail
    drained = Condition(type="DisruptionTarget", status="True", reason="EvictionByEvictionAPI", message="Eviction API")
    assert found(cause(**crashed, pod=pod(container(terminated="Error", **ended), conditions=(drained,))))[0] == "PL106"
    kind, detail = found(cause(**crashed, pod=pod(container(terminated="Error", **ended), phase="Failed")))
    assert kind == "PL108"
    assert "exit code 137, SIGKILL" in detail


def test_what_the_flow_says_counts_more_than_how_its_pod_ended() -> None:
    """A pod that was drained after the flow had failed did not fail it."""
    drained = Condition(type="DisruptionTarget", status="True", reason="EvictionByEvictionAPI")
    assert found(cause(message=SAID + "BadData: x", pod=pod(conditions=(drained,))))[0] == "PL103"


MESSAGES = [
    ("PL109", "Kubernetes job was deleted"),
    ("PL109", "its pod is gone, and Prefect was not told how it ended"),
    ("PL113", "HeartbeatLost: no sign of life for 120 s"),
    ("PL114", "not started within 3600 s, the pipeline's start deadline"),
    ("PL113", "No heartbeat from the run for 90 s"),
    ("PL105", "Process exited with status code: -9. This may be due to running out of memory"),
    ("PL107", "Flow run could not start: the flow a.b could not be loaded: ModuleNotFoundError: No module named 'a'"),
    ("PL107", "Execution was interrupted by an unexpected exception: SignatureMismatchError: missing 'day'"),
    ("PL108", "Execution was aborted by a termination signal."),
    ("PL108", "Flow run infrastructure exited with non-zero status code 1."),
    ("PL112", "Flow run could not be submitted to infrastructure: ApiException"),
    ("PL199", "something else"),
    ("PL199", None),
]


@pytest.mark.parametrize(("kind", "message"), MESSAGES)
def test_where_nothing_else_is_known_prefects_message_is(kind: str, message: str | None) -> None:
    """By the words of Prefect's own parts."""
    assert found(cause(state=State.CRASHED, state_name="Crashed", message=message))[0] == kind


def test_runs_that_prefect_never_had_or_lost() -> None:
    """Refused at their hand-over, or deleted afterwards."""
    assert found(cause(handed_over=False, message="Prefect has no deployment a/b"))[0] == "PL110"
    assert found(cause(state=State.CRASHED, state_name="NotFound", message="was deleted there"))[0] == "PL111"
