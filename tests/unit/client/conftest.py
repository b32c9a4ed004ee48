"""The command as people run it, against the application on a real ledger with Prefect played at the wire."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..orchestrator.conftest import database_url, ledger_template, plain_log  # noqa: F401 -- fixtures
from ..orchestrator.test_events import listening
from ..orchestrator.wire import PrefectWire
from .running import Pipelines


@pytest.fixture
def wire() -> PrefectWire:
    """Prefect, as the test moves it."""
    return PrefectWire()


@pytest.fixture
async def pipelines(database_url: str, wire: PrefectWire, tmp_path: Path) -> AsyncIterator[Pipelines]:  # noqa: F811
    """`await pipelines("list")`: the command against a service without a door."""
    async with listening(database_url, wire) as client:
        yield Pipelines(str(client.base_url), home=tmp_path)
