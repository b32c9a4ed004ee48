"""The orchestrator and the flow, each by itself, come to the same correlation id for one flow run."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from etl.identity import identify
from orchestrator.runs import FlowRun, State

FLOW_RUN = UUID("6a1cf4d1-0e73-4a7e-9d0c-5b9d7a0e9b52")
RUN = "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((f"run-id:{RUN}", "correlation-id:order-7."), "order-7."),
        ((), str(FLOW_RUN)),
        (("team:data", "correlation-id"), str(FLOW_RUN)),
        (("correlation-id:a b\n",), str(FLOW_RUN)),
        (("correlation-id:",), str(FLOW_RUN)),
        (("correlation-id:" + "a" * 129,), str(FLOW_RUN)),
        (("correlation-id:first", "correlation-id:second"), "first"),
        (("correlation-id:not one", "correlation-id:one"), "one"),
    ],
)
def test_both_sides_agree(tags: tuple[str, ...], expected: str) -> None:
    """The schedule's runs have no tags, and a tag is anybody's text."""
    now = datetime.now(UTC)
    followed = FlowRun(
        flow_run_id=FLOW_RUN,
        deployment_id=None,
        idempotency_key=None,
        origin="schedule",
        tags=tags,
        state=State.SCHEDULED,
        state_name="Scheduled",
        message=None,
        at=now,
        expected_at=now,
        started_at=None,
        ended_at=None,
    )
    assert followed.correlation_id == identify(FLOW_RUN, tags).correlation_id == expected
