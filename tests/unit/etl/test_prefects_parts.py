"""The parts of Prefect that are not its public interface and that a flow's process replaces or puts off.

A test here that fails after an upgrade says which: read etl.execution.fit, or etl.later, against Prefect's new source.
"""

import inspect
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import prefect.logging.configuration
import pytest
from etl import later
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
import prefect.flows
with later.finishing():
    import prefect.flow_engine
later.know_blocks()
{use}
print(json.dumps([name for name in sorted(later.PUT_OFF) if type(sys.modules.get(name)) is types.ModuleType]))
"""
FLOW = '''
from prefect import flow
def one(a):
    """{says}
    """
told = flow(one).parameters.properties["a"].get("description")
assert told == ("Told." if "Told" in one.__doc__ else None)
'''
MINE = """
import httpcore
class Mine(httpcore.HTTP2Connection): pass
assert issubclass(Mine, httpcore.HTTP2Connection)
"""
NOTIFICATIONS, SYSTEM, WEBHOOK = later.BLOCKS


def said_by(use: str) -> Any:
    """What is put off and loaded after all, once Prefect is imported as a pod does it and used so."""
    program = [sys.executable, "-c", PUT_OFF.format(use=use)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("", set()),
        (
            "from prefect.blocks.core import Block; Block.get_block_class_from_key('slack-webhook')",
            set(later.BLOCKS) | {"griffe"},
        ),
        ("from prefect.blocks.webhook import Webhook; Webhook(url='http://localhost')", {WEBHOOK}),
        (
            "from prefect.blocks import notifications; notifications.SlackWebhook(url='http://localhost')",
            {NOTIFICATIONS},
        ),
        ("import prefect; assert prefect.blocks.webhook.Webhook", {WEBHOOK}),
        ("import httpx; assert httpx.main and httpx.Client", set()),
        ("import prefect.analytics; assert prefect.analytics.emit_integration_event", {"prefect._internal.analytics"}),
        ("import jsonschema; jsonschema.validate(1, {'type': 'integer'})", {"jsonschema"}),
        ("from jsonschema.validators import Draft202012Validator", {"jsonschema"}),
        (
            "from prefect.filesystems import RemoteFileSystem; RemoteFileSystem(basepath='memory://a').filesystem",
            {"fsspec"},
        ),
        ("from prefect.utilities.filesystem import is_local_path; assert is_local_path('/tmp/a')", {"fsspec.core"}),
        ("from prefect.utilities.filesystem import filter_files; filter_files('.', ['*'])", {"pathspec"}),
        ("from prefect import flow; flow(lambda a: a)", set()),
        (FLOW.format(says="One day's numbers, by argument."), set()),
        (FLOW.format(says="One.\n\n    Args:\n        a: Told."), {"griffe"}),
        (
            "from prefect.client.schemas.schedules import RRuleSchedule; RRuleSchedule(rrule='FREQ=DAILY').to_rrule()",
            {"dateutil.rrule", "dateutil.tz"},
        ),
        ("import httpx; httpx.Client(http2=True)", set()),
        ("import httpcore; assert not isinstance(1, httpcore.HTTP2Connection)", {"httpcore._sync.http2"}),
        (MINE, {"httpcore._sync.http2"}),
        ("from prefect.utilities.names import generate_slug; assert generate_slug(2)", {"coolname"}),
    ],
)
def test_what_is_put_off_is_there_when_it_is_used(use: str, loaded: set[str]) -> None:
    """A module is loaded when something of it is asked for, by name or by a block's type, and not before.

    What is loaded then may need others.
    """
    said = set(said_by(use))
    assert said >= loaded
    assert loaded or not said


def test_nothing_promised_is_an_exception() -> None:
    """By its promise nobody could catch it."""
    use = (
        "import gc; from etl.promises import Promise;"
        "kept = [one.kept() for one in gc.get_objects() if type(one) is Promise]; assert kept;"
        "assert not [one for one in kept if isinstance(one, type) and issubclass(one, BaseException)], kept"
    )
    assert said_by(use)


def test_prefects_logging_is_set_up_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same settings; a configuration of one's own may name any of them."""
    told = (
        "import logging; print(json.dumps([logging.getLogger(one).level for one in ('prefect', 'prefect._internal')]));"
    )
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("PREFECT_INTERNAL_LOGGING_LEVEL", "CRITICAL")
    own = inspect.getsource(prefect.logging.configuration)
    assert "to_environment_variables(include_aliases=True)" in own, "Prefect sets up its logging otherwise"
    config = (Path(prefect.logging.__file__).with_name("logging.yml")).read_text()
    named = set(re.findall(r"\$\{?(\w+)", config))
    assert named == set(later.NAMED), "Prefect's own configuration names other settings"
    program = PUT_OFF.format(use=told)
    for text in (None, config.replace("${PREFECT_INTERNAL_LOGGING_LEVEL}", "${PREFECT_LOGGING_INTERNAL_LEVEL}")):
        if text is not None:
            (tmp_path / "logging.yml").write_text(text)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        levels = json.loads(done.stdout.splitlines()[-2])
        assert levels == [logging.ERROR, logging.CRITICAL]
