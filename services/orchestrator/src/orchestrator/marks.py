"""What a flow run and its Job carry of the run behind them, so that each is found by the run's own ids."""

import hashlib
import re
from typing import Any
from uuid import UUID

# Prefect's engine opens the flow run's span under the trace that this label names, and the flow hands it on.
TRACEPARENT_LABEL = "__OTEL_TRACEPARENT"
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

# What a flow pod, and the worker, read on the runs of a backfill that has pods execute several of them.
BACKFILL_LABEL = "pipelines.backfill-id"
RUNS_PER_POD_LABEL = "pipelines.runs-per-pod"
LEFT_TO_PODS_LABEL = "pipelines.left-to-pods-seconds"
# As long as a pod waits for its next run.
LEFT_TO_PODS_SECONDS = 5
# What the pod writes there: the flow run in whose pod this one is executed.
POD_OF_LABEL = "pipelines.pod-of"

# What Kubernetes takes as a label's value and Prefect's worker leaves as it is: it makes one dash of several.
_LABEL = re.compile(r"(?!.*--)[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LONGEST_LABEL = 63


def tags(run_id: UUID, correlation_id: str, backfill_id: UUID | None = None) -> list[str]:
    """The flow run's tags: what people search for in Prefect, and what the flow reads its ids from."""
    backfill = [f"backfill:{backfill_id}"] if backfill_id else []
    return [f"run-id:{run_id}", f"correlation-id:{correlation_id}", *backfill]


def labels(run_id: UUID, correlation_id: str, traceparent: str | None) -> dict[str, str]:
    """The flow run's labels: they go into Prefect's events and spans about the run."""
    told = {"pipelines.run-id": str(run_id), "pipelines.correlation-id": correlation_id}
    return told | ({TRACEPARENT_LABEL: traceparent} if traceparent else {})


def in_turn(backfill_id: UUID, *, runs_per_pod: int, first: bool) -> dict[str, str | int]:
    """The labels by which a pod finds its next run, and a worker leaves that to pods; none where each run has its own.

    `first`: no pod can be waiting for the run.
    """
    if runs_per_pod == 1:
        return {}
    told: dict[str, str | int] = {BACKFILL_LABEL: str(backfill_id), RUNS_PER_POD_LABEL: runs_per_pod}
    return told if first else told | {LEFT_TO_PODS_LABEL: LEFT_TO_PODS_SECONDS}


def job_variables(run_id: UUID, correlation_id: str) -> dict[str, Any]:
    """Labels and annotations for the Job and its pod.

    With dots, Prefect adds each to what the deployment asks for; as a whole map they would take its place.
    """
    return {
        "labels.pipelines/run-id": str(run_id),
        "labels.pipelines/correlation-id": label_value(correlation_id),
        "annotations.pipelines/correlation-id": correlation_id,
    }


def label_value(text: str) -> str:
    """`text` itself where it can be a label's value, else the start of it and a digest of the whole."""
    if _LABEL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    start = re.sub(r"-{2,}", "-", text).strip("._-")[: _LONGEST_LABEL - len(digest) - 1].rstrip("._-")
    return f"{start}-{digest}" if start else digest
