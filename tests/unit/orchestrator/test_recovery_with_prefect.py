"""Recovering runs by a real Prefect server's rules: reruns, slots, deadlines, missed schedules."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from orchestrator import slots as slots_of
from orchestrator.prefect_api import PrefectApi
from orchestrator.resilience import Guard, Limits
from orchestrator.runs import State

from .test_with_prefect import Prefect, prefect

__all__ = ["prefect"]  # a fixture of the whole path's tests, used here by name

Told = dict[str, Any]


@asynccontextmanager
async def speaking(prefect: Prefect) -> Any:
    """This service's client of that server."""
    async with httpx.AsyncClient(base_url=prefect.api, timeout=20, trust_env=False) as client:
        yield PrefectApi(client, Guard("prefect", limits=Limits(attempt=20, total=60)))


async def made(prefect: Prefect, **more: Any) -> UUID:
    answer = await prefect.call("POST", f"/deployments/{prefect.deployment_id}/create_flow_run", more)
    return UUID(answer["id"])


async def propose(prefect: Prefect, flow_run_id: UUID, state: str, name: str | None = None) -> Told:
    """A state by the rules that workers and flow runs are held to, asked as Prefect's own client asks."""
    answer = await prefect.client.post(
        f"/flow_runs/{flow_run_id}/set_state",
        json={"state": {"type": state, "name": name or state.title()}},
        headers={"user-agent": "prefect/3.9.1 (API 0.8.4)"},
    )
    told: Told = answer.raise_for_status().json()
    return told


async def test_every_transition_that_recovery_asks_for_is_taken(prefect: Prefect) -> None:
    """Crashed from where a run may stop, Scheduled again from there and from Crashed, TimedOut, Skipped."""
    async with speaking(prefect) as api:
        for before in ("SCHEDULED", "PENDING", "RUNNING"):
            flow_run_id = await made(prefect)
            if before != "SCHEDULED":
                await prefect.move(str(flow_run_id), before)
            assert await api.crash(flow_run_id, reason="lost") == "ACCEPT"
            told = await api.flow_run(flow_run_id)
            assert (told.state, told.message) == (State.CRASHED, "lost")
            assert (await api.crash(flow_run_id, reason="again")).startswith("ABORT")
            assert await api.reschedule(flow_run_id, name="AwaitingRetry", reason="attempt 2 of 3: lost") == "ACCEPT"
            told = await api.flow_run(flow_run_id)
            assert (told.state, told.state_name, told.message) == (
                State.SCHEDULED,
                "AwaitingRetry",
                "attempt 2 of 3: lost",
            )
            assert told.next_at is not None
            assert abs(told.next_at - datetime.now(UTC)) < timedelta(seconds=30)
            assert told.ended_at is None
        flow_run_id = await made(prefect)
        await prefect.move(str(flow_run_id), "PENDING", name="Submitting")
        assert await api.reschedule(flow_run_id, name="Scheduled", reason="put back") == "ACCEPT"
        assert await api.skip(flow_run_id, reason="missed") == "ACCEPT"
        told = await api.flow_run(flow_run_id)
        assert (told.state, told.state_name) == (State.CANCELLED, "Skipped")
        flow_run_id = await made(prefect)
        await prefect.move(str(flow_run_id), "RUNNING")
        assert await api.time_out(flow_run_id, reason="too long") == "ACCEPT"
        told = await api.flow_run(flow_run_id)
        assert (told.state, told.state_name, told.message) == (State.FAILED, "TimedOut", "too long")


async def test_a_crash_that_prefect_is_told_twice_is_known(prefect: Prefect) -> None:
    """A retried request whose first answer was lost changes nothing, although a rerun looks like a new wish."""
    flow_run_id = await made(prefect)
    await prefect.move(str(flow_run_id), "CRASHED")
    body = {
        "state": {
            "type": "SCHEDULED",
            "name": "AwaitingRetry",
            "state_details": {"transition_id": "0b5f0ac8-9a0e-4b8e-9a3b-6f0f6f1f6a11"},
        }
    }
    path = f"/flow_runs/{flow_run_id}/set_state"
    assert (await prefect.call("POST", path, body))["status"] == "ACCEPT"
    assert (await prefect.call("POST", path, body))["status"] == "REJECT"


async def limited(prefect: Prefect) -> None:
    await prefect.call("PATCH", f"/deployments/{prefect.deployment_id}", {"concurrency_limit": 1})


async def slots(prefect: Prefect) -> int:
    deployment = await prefect.call("GET", f"/deployments/{prefect.deployment_id}")
    limit = await prefect.call("GET", f"/v2/concurrency_limits/{deployment['global_concurrency_limit']['id']}")
    taken: int = limit["active_slots"]
    return taken


async def occupying(prefect: Prefect, state: str) -> UUID:
    """A run that holds the deployment's only slot."""
    flow_run_id = await made(prefect)
    assert (await propose(prefect, flow_run_id, "PENDING"))["status"] == "ACCEPT"
    if state == "RUNNING":
        assert (await propose(prefect, flow_run_id, "RUNNING"))["status"] == "ACCEPT"
    assert await slots(prefect) == 1
    return flow_run_id


@pytest.mark.parametrize(
    ("state", "freed"),
    [
        ("RUNNING", lambda api, run: api.crash(run, reason="lost")),
        ("PENDING", lambda api, run: api.crash(run, reason="start deadline")),
        ("PENDING", lambda api, run: api.reschedule(run, name="Scheduled", reason="put back")),
        ("RUNNING", lambda api, run: api.time_out(run, reason="too long")),
        ("RUNNING", lambda api, run: api.cancel(run)),
    ],
)
async def test_what_ends_a_run_frees_its_slot(
    prefect: Prefect, state: str, freed: Callable[[PrefectApi, UUID], Awaitable[str]]
) -> None:
    """Under a deployment's limit of one, the next run may start once the one before was ended here."""
    await limited(prefect)
    async with speaking(prefect) as api:
        holder = await occupying(prefect, state)
        other = await made(prefect)
        told = await propose(prefect, other, "PENDING")
        assert (told["status"], told["state"]["name"]) == ("REJECT", "AwaitingConcurrencySlot")
        await freed(api, holder)
        if (await api.flow_run(holder)).state is State.CANCELLING:
            await api.end_as_cancelled(holder, reason="does not obey")
        assert await slots(prefect) == 0
        assert (await propose(prefect, other, "PENDING"))["status"] == "ACCEPT"
        assert await slots(prefect) == 1


async def test_slots_that_nobody_holds_are_given_back(prefect: Prefect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot counted twice for one run blocks the next for ever; it is freed once no lease can stand for it."""
    await limited(prefect)
    deployment = UUID(prefect.deployment_id)
    holder = await occupying(prefect, "RUNNING")
    monkeypatch.setattr(slots_of, "EVERY", timedelta(0))
    async with speaking(prefect) as api:
        watched = slots_of.Slots(api)
        assert await watched.look([deployment]) == {}
        await prefect.call("PATCH", f"/v2/concurrency_limits/{slots_of.limit_of(deployment)}", {"active_slots": 3})
        assert await watched.look([deployment]) == {}, "a lease may stand for it"
        monkeypatch.setattr(slots_of, "LEASES_END_AFTER", timedelta(0))
        assert await watched.look([deployment]) == {deployment: 2}
        assert await slots(prefect) == 1, "the run that holds one keeps it"
        assert await watched.look([deployment]) == {}
        await api.crash(holder, reason="lost")
        assert await watched.look([deployment]) == {}
        assert await slots(prefect) == 0
