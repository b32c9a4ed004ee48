"""The parts of Prefect that are not its public interface and that a flow's process replaces or puts off.

A test here that fails after an upgrade says which: read etl.execution.fit, or etl.later, against Prefect's new source.
"""

import inspect
import json
import subprocess
import sys
from typing import get_args

import pytest
from prefect import flow_engine
from prefect._internal import control_listener
from prefect.blocks.core import Block
from prefect.flow_engine import AsyncFlowRunEngine, BaseFlowRunEngine, FlowRunEngine
from prefect.utilities import engine as engine_utilities


@pytest.mark.parametrize(
    ("part", "takes"),
    [
        (flow_engine.observe_flow_run_suspension, ["flow_run_id", "suspension_request", "polling_interval"]),
        (flow_engine._send_heartbeats, ["engine", "join_on_exit"]),
        (engine_utilities._prefect_sigterm_handler, ["sig_num", "args"]),
        (control_listener._set_intent, ["value"]),
        (Block.get_block_class_from_key, ["key"]),
    ],
)
def test_a_replaced_part_takes_what_it_took(part: object, takes: list[str]) -> None:
    """Its replacement takes the same."""
    assert callable(part)
    assert list(inspect.signature(part).parameters) == takes, f"Prefect changed {part}"


@pytest.mark.parametrize(
    ("user", "used"),
    [
        (BaseFlowRunEngine.setup_flow_run_suspension_request, "observe_flow_run_suspension("),
        (FlowRunEngine.run_context, "_send_heartbeats(self"),
        (AsyncFlowRunEngine.run_context, "_send_heartbeats(self"),
        (engine_utilities.capture_sigterm, "signal.SIGTERM, _prefect_sigterm_handler"),
        (FlowRunEngine.initialize_run, "_termination_intent()"),
        (AsyncFlowRunEngine.initialize_run, "_termination_intent()"),
        (Block.get_block_class_from_schema, "get_block_class_from_key("),
    ],
)
def test_a_replaced_part_is_what_prefect_uses(user: object, used: str) -> None:
    """By that name, looked up when it is needed: a replacement nobody asks would show in no run that ends well."""
    assert used in inspect.getsource(user), f"Prefect does not use {used} in {user} any more"  # type: ignore[arg-type]


def test_a_flow_may_be_stopped_for_the_same_reasons() -> None:
    """Those that Prefect's engine knows, and leaves the run's state alone for."""
    assert set(get_args(control_listener.Intent)) == {"cancel", "reschedule", "relinquish"}
    assert set(flow_engine._SUPERVISOR_OWNED_INTENTS) == {"reschedule", "relinquish"}


PUT_OFF = """
import json, sys, types
from etl import later
later.put_off()
import prefect.flow_engine
later.know_blocks()
{use}
print(json.dumps([type(sys.modules[name]) is types.ModuleType for name in later.BLOCKS]))
"""


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("", [False, False]),
        ("from prefect.blocks.core import Block; Block.get_block_class_from_key('slack-webhook')", [True, True]),
        ("from prefect.blocks.webhook import Webhook; Webhook(url='http://localhost')", [False, True]),
        ("from prefect.blocks import notifications; notifications.SlackWebhook(url='http://localhost')", [True, False]),
        ("import prefect; assert prefect.blocks.webhook.Webhook", [False, True]),
        ("import httpx; assert httpx.main and httpx.Client", [False, False]),
    ],
)
def test_what_is_put_off_is_there_when_it_is_used(use: str, loaded: list[bool]) -> None:
    """A module of blocks is loaded when something of it is asked for, by name or by a block's type, and not before."""
    done = subprocess.run(
        [sys.executable, "-c", PUT_OFF.format(use=use)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == loaded
