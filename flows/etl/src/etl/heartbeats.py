"""The automation on the Prefect server that ends runs whose heartbeat stopped, which Prefect itself leaves Running.

A node that dies, or a frozen process, says nothing; what is left is that the heartbeat (see etl.start) does not come.
Only these deployments' runs are watched: other flows on the server may beat more rarely, or not at all.

The time is four heartbeats, so that a busy node may miss three. A server that was down as long as that calls its runs
Crashed when it is back, though they live: it heard none of them. That costs a rerun and no more, since a rerun takes a
newer claim, under which the first attempt can write nothing and changes no state (see etl.claim).
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

LOST_SECONDS = 120


def automation_name(pool: str) -> str:
    """By which the automation of a work pool's deployments is known."""
    return f"{pool}: runs without a heartbeat are crashed"


async def watch(pool: str, deployments: Sequence[UUID], *, lost_seconds: int, client: PrefectClient) -> str:
    """Make the server end these deployments' runs as Crashed `lost_seconds` after their last sign of life.

    The automation is known by its name, which carries the work pool's. One that somebody disabled stays disabled.
    """
    name = automation_name(pool)
    wanted = AutomationCore(
        name=name,
        description="Made by the registration, which puts it back; disable it here if it shall not act.",
        enabled=True,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {"prefect.resource.id": [f"prefect.deployment.{deployment}" for deployment in deployments]}
            ),
            threshold=1,
            within=timedelta(seconds=lost_seconds),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"HeartbeatLost: no sign of life for {lost_seconds} s: its process or node is gone or frozen",
            )
        ],
    )
    present = await client.read_automations_by_name(name)
    if not present:
        await client.create_automation(wanted)
        return f"automation {name!r}: created"
    first, *others = sorted(present, key=lambda automation: str(automation.id))
    for other in others:
        await client.delete_automation(other.id)
    await client.update_automation(first.id, wanted.model_copy(update={"enabled": first.enabled}))
    return f"automation {name!r}: updated{'' if first.enabled else ', still disabled'}"
