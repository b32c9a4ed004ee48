"""What a flow run and its Job carry of the run behind them, so that each is found by the run's own ids."""

import hashlib
import re
from typing import Any
from uuid import UUID

# Prefect's engine opens the flow run's span under the trace that this label names, and the flow hands it on.
TRACEPARENT_LABEL = "__OTEL_TRACEPARENT"
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

# What Kubernetes takes as a label's value and Prefect's worker leaves as it is: it makes one dash of several.
_LABEL = re.compile(r"(?!.*--)[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LONGEST_LABEL = 63


def tags(run_id: UUID, correlation_id: str) -> list[str]:
    """The flow run's tags: what people search for in Prefect, and what the flow reads its ids from."""
    return [f"run-id:{run_id}", f"correlation-id:{correlation_id}"]


def labels(run_id: UUID, correlation_id: str, traceparent: str | None) -> dict[str, str]:
    """The flow run's labels: they go into Prefect's events and spans about the run."""
    told = {"pipelines.run-id": str(run_id), "pipelines.correlation-id": correlation_id}
    return told | ({TRACEPARENT_LABEL: traceparent} if traceparent else {})


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
