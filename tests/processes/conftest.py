"""A warehouse of its own for each test that runs a flow."""

from typing import Any

import pytest
from etl.migrate import migrate


@pytest.fixture
async def warehouse(postgres: Any) -> str:
    """A migrated, empty warehouse's URL."""
    url: str = postgres.create_database()
    await migrate(url)
    return url
