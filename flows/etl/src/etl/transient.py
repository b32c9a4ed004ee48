"""Which failure of a task is worth another try, in the form in which Prefect asks."""

import asyncio
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.states import aget_state_exception
from prefect.tasks import Task

from etl.errors import SourceUnavailable

# The longest wait that the source may ask for between two tries.
_MOST_RETRY_AFTER_SECONDS = 60.0


async def is_transient(_task: Task[Any, Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """A task's `retry_condition_fn`: only a failure that may pass is tried again, a refusal or bad data fails at once.

    Prefect's delay between tries is fixed beforehand; what a Retry-After asks for is waited here, before it.
    """
    error = await aget_state_exception(state)
    if isinstance(error, SourceUnavailable) and error.retry_after:
        await asyncio.sleep(min(error.retry_after, _MOST_RETRY_AFTER_SECONDS))
    return isinstance(error, SourceUnavailable | TimeoutError)
