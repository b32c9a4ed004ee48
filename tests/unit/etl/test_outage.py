"""Which errors mean that the warehouse is away for the moment."""

import asyncpg
import pytest
from adbc_driver_manager import AdbcStatusCode, OperationalError
from etl.outage import is_away


def adbc(sqlstate: str | None, status: AdbcStatusCode = AdbcStatusCode.IO) -> OperationalError:
    return OperationalError("as said", status_code=status, sqlstate=sqlstate)


class StepTookTooLong(TimeoutError):
    """As Prefect's own."""


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.ConnectionDoesNotExistError("connection was closed"),
        adbc(None),
        adbc("57P01"),
        adbc("08006"),
    ],
    ids=repr,
)
def test_an_outage_is_told(error: Exception) -> None:
    """Nobody listens, it shuts down or starts, or the connection is gone."""
    assert is_away(error)


@pytest.mark.parametrize(
    "error",
    [
        StepTookTooLong(),
        KeyError("x"),
        asyncpg.UndefinedTableError("no loads"),
        asyncpg.QueryCanceledError("statement timeout"),
        adbc("57014"),
        adbc("53100"),
        adbc(None, AdbcStatusCode.INVALID_ARGUMENT),
    ],
    ids=repr,
)
def test_what_will_not_pass_is_told_apart(error: Exception) -> None:
    """A mistake, a limit that was reached, or a step's own time."""
    assert not is_away(error)
