"""A flow run under Prefect's engine in this very process, with what Prefect's own command does around the engine.

`prefect flow-run execute` starts an interpreter that prepares a workspace and one that runs the engine, and watches
them. Here one process does all of it, and so has to do what a watching process did: notice a cancellation (etl.watch),
end a flow that does not end (etl.ending), and report what the engine cannot. What it cannot do is outlive a SIGKILL;
that a process was killed is for the worker to see, by its Job.

The engine is Prefect's public `run_flow`. Three of its parts, which are private, are replaced; see `fit`.
"""

import asyncio
import gc
import inspect
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from prefect import flow_engine
from prefect._flow_run_suspension import FlowRunSuspensionRequest
from prefect._internal import control_listener
from prefect._internal.metrics import RunMetrics
from prefect.client.schemas.objects import FlowRun, State
from prefect.events.worker import EventsWorker
from prefect.exceptions import Abort, MissingFlowError, Pause, TerminationSignal
from prefect.flow_engine import BaseFlowRunEngine, run_flow
from prefect.flows import Flow, load_flow_from_entrypoint, load_function_and_convert_to_flow
from prefect.logging.handlers import APILogWorker
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelling, Crashed, exception_to_crashed_state
from prefect.utilities import engine as engine_utilities

from etl.attempt import Attempt, hand_back
from etl.ending import Ending, Reason
from etl.prefect_api import ApiRefused
from etl.watch import Watch

# How long what is queued for Prefect may take to be sent: after the flow's end, and while a pod's last seconds run.
_SHIP_SECONDS = 30.0
_SHIP_LAST_SECONDS = 5.0

# How long to try to learn the run's state when the process is to end.
_READ_SECONDS = 10.0

# How long to try to tell Prefect of an end that only this process knows.
_REPORT_SECONDS = 60.0

_CANCELLED = "Flow run was cancelled successfully."
_FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "CRASHED"})


# Prefect's own, which replacements for one run leave all others to; see `fit`.
_observe: Callable[..., AbstractContextManager[None]] = vars(flow_engine)["observe_flow_run_suspension"]
_send_heartbeats: Callable[..., AbstractContextManager[None]] = vars(flow_engine)["_send_heartbeats"]


class Execution:
    """One flow run, from its flow's import to the process's exit status."""

    def __init__(self, attempt: Attempt, *, entrypoint: str, ending: Ending) -> None:
        self._attempt = attempt
        self._entrypoint = entrypoint
        self._ending = ending
        self._flow_run = FlowRun.model_validate(attempt.run.told)
        self._flow: Flow[..., Any] | None = None
        self._in_order = False
        self._log = flow_run_logger(self._flow_run)
        ending.finish = self._finish

    @property
    def in_order(self) -> bool:
        """Whether the flow came to an end of its own, good or bad, which leaves the process fit for another run."""
        return self._in_order

    def run(self) -> int:
        """Run the flow, report what the engine does not, and send what is queued; the exit status.

        That is 0 whenever Prefect knows how the run ended, or that it goes on elsewhere, as with Prefect's own command.
        """
        try:
            status = self._run()
        except TerminationSignal:  # it came when the flow had just ended
            status = self._finish(self._ending.over() or Reason.CRASH)
        ship(within_seconds=_SHIP_SECONDS)
        return status

    def _run(self) -> int:
        try:
            flow = self._flow = _load(self._entrypoint)
        except BaseException as exc:  # noqa: BLE001 - a module may also call sys.exit
            self._log.exception("The flow %s could not be loaded", self._entrypoint)
            cause = f"{type(exc).__name__}: {exc}"
            return self._crash(f"Flow run could not start: the flow {self._entrypoint} could not be loaded: {cause}")
        finally:
            # What was imported, with garbage collection off (see etl.start), stays.
            if not gc.isenabled():
                gc.freeze()
                gc.enable()
        watch = Watch(self._flow_run, flow_name=flow.name, api=self._attempt.api, on_cancelling=self._ending.cancel)
        fit(self._flow_run, self._ending, watch)
        crash: BaseException | None = None
        cancelling = False
        try:
            self._ending.begin(self._stopped)
            watch.start()
            with RunMetrics(self._flow_run, flow):
                state = _drive(flow, self._flow_run, self._log)
            # begun while it was being cancelled: Prefect refused Running
            cancelling = state is not None and state.is_cancelling()
        except (Abort, Pause) as exc:
            self._log.info("The process ends, the run's state stays: %s", exc)
        except TerminationSignal:
            pass
        except BaseException as exc:  # noqa: BLE001 - SystemExit too ends a flow, and is reported
            crash = exc
        watch.stop()
        reason = self._ending.over()
        if reason is not None or cancelling:
            return self._finish(reason or Reason.CANCEL)
        if crash is not None:
            return self._crash(_crash_message(crash))
        self._in_order = True
        return 0

    def _stopped(self) -> BaseException:
        """What stops the flow. The engine asks why, and then leaves the run's next state to this process.

        Without a reason it would call the run Crashed, which is right where SIGTERM is to crash it.
        """
        match self._ending.reason:
            case Reason.CANCEL:
                control_listener._set_intent("cancel")
            case Reason.RESCHEDULE:
                control_listener._set_intent("reschedule")
            case Reason.RELINQUISH:
                control_listener._set_intent("relinquish")
        return TerminationSignal(signal.SIGTERM)

    def _finish(self, reason: Reason) -> int:
        """Carry out an ending, in whichever thread; where the run is being cancelled, that goes before the rest."""
        try:
            state_type = self._attempt.api.read_state(self._flow_run.id, within_seconds=_READ_SECONDS)["type"]
            if state_type == "CANCELLING":
                self._cancelled()
            elif reason is Reason.RESCHEDULE:
                hand_back()
            elif reason is Reason.CRASH and state_type not in _FINAL:
                self._crash(_crash_message(TerminationSignal(signal.SIGTERM)))
        except (TimeoutError, ApiRefused) as exc:
            raise SystemExit(str(exc)) from exc
        finally:
            ship(within_seconds=_SHIP_LAST_SECONDS)
        return {Reason.RELINQUISH: 1, Reason.CRASH: 128 + signal.SIGTERM}.get(reason, 0)

    def _cancelled(self) -> None:
        hooks = self._flow.on_cancellation_hooks if self._flow else []
        self._call(hooks, Cancelling(message="Flow run was cancelled."))
        self._attempt.api.end(
            self._flow_run.id, "CANCELLED", message=_CANCELLED, force=True, within_seconds=_REPORT_SECONDS
        )

    def _crash(self, message: str) -> int:
        """Report that the run crashed, where the engine has not reported an end, and call the flow's hooks."""
        api = self._attempt.api
        try:
            if api.read_state(self._flow_run.id, within_seconds=_REPORT_SECONDS)["type"] in _FINAL:
                return 0
            answer = api.end(self._flow_run.id, "CRASHED", message=message, force=False, within_seconds=_REPORT_SECONDS)
        except (TimeoutError, ApiRefused) as exc:
            self._log.error("The crash could not be reported: %s: %s", message, exc)
            return 1
        if answer == "ACCEPT":
            self._log.error("Crash detected! %s", message)
            self._call(self._flow.on_crashed_hooks if self._flow else [], Crashed(message=message))
        return 0

    def _call(self, hooks: Sequence[Callable[..., Any]], state: State[Any]) -> None:
        for hook in hooks:
            name = getattr(hook, "__name__", type(hook).__name__)
            self._log.info("Running hook %r in response to entering state %r", name, state.name)
            try:
                called = hook(self._flow, self._flow_run, state)
                if inspect.isawaitable(called):
                    asyncio.run(_awaited(called))
            except Exception:  # noqa: BLE001 - a hook's failure is not the run's
                self._log.exception("An error was encountered while running hook %r", name)
            else:
                self._log.info("Hook %r finished running successfully", name)


def fit(flow_run: FlowRun, ending: Ending, watch: Watch) -> None:
    """Replace three parts of Prefect's engine, which have no public way to be told what one process needs.

    Its handler of SIGTERM, since it stops the flow before anybody could tell the engine why, and the run would be
    Crashed. Its observer of suspensions, which opens a websocket, and has the flow wait for it, in the shortest run
    too: the watch sees those as well. And its heartbeats for this run, whose thread the end of a flow waits for.
    """

    def observe_here(flow_run_id: UUID, request: FlowRunSuspensionRequest) -> AbstractContextManager[None]:
        mine = flow_run_id == flow_run.id
        return watch.suspension(request.mark_requested) if mine else _observe(flow_run_id, request)

    def beat_here(engine: BaseFlowRunEngine[Any, Any], join_on_exit: bool = True) -> AbstractContextManager[None]:
        mine = engine.flow_run is not None and engine.flow_run.id == flow_run.id
        seconds = engine.heartbeat_seconds
        return watch.beating(seconds) if mine and seconds else _send_heartbeats(engine, join_on_exit)

    # Else the engine would write a cancellation's states itself, for which a blocked one is no help.
    os.environ["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "false"
    vars(engine_utilities)["_prefect_sigterm_handler"] = ending.interrupt
    vars(flow_engine).update(observe_flow_run_suspension=observe_here, _send_heartbeats=beat_here)


def ship(*, within_seconds: float) -> None:
    """Send the log lines and events that are queued, and stop the queues; in any thread without an event loop."""
    for queue in (APILogWorker, EventsWorker):
        queue.drain_all(timeout=within_seconds)


def _load(entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except MissingFlowError:
        return load_function_and_convert_to_flow(entrypoint)


def _drive(flow: Flow[..., Any], flow_run: FlowRun, log: Any) -> State[Any] | None:
    """Run the flow to its end; its last state, which a generator's is not told."""
    outcome = run_flow(flow, flow_run=flow_run, return_type="result" if flow.isgenerator else "state", error_logger=log)
    if inspect.isasyncgen(outcome):
        asyncio.run(_exhausted(outcome))
    elif inspect.isgenerator(outcome):
        deque(outcome, maxlen=0)
    elif inspect.iscoroutine(outcome):
        outcome = asyncio.run(outcome)
    return outcome if isinstance(outcome, State) else None


async def _exhausted(results: AsyncIterator[Any]) -> None:
    async for _ in results:
        pass


async def _awaited(called: Awaitable[Any]) -> None:
    await called


def _crash_message(exc: BaseException) -> str:
    return str(asyncio.run(exception_to_crashed_state(exc)).message)
