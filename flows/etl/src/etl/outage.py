"""Whether what went wrong is that the warehouse is away for the moment: restarting, failing over, or out of reach."""

import asyncpg
from adbc_driver_manager import AdbcStatusCode, OperationalError

# Connection exceptions, and an operator's or a crash's shutdown: https://www.postgresql.org/docs/17/errcodes-appendix.html
_CLASSES = ("08", "57P")


def is_away(error: BaseException) -> bool:
    """Whether the same statements may succeed in a moment. A task of Prefect's that took too long is not meant."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_CLASSES)
    if isinstance(error, OperationalError):
        # libpq has no code for a server that cannot be reached, or that went without a word
        return error.status_code == AdbcStatusCode.IO and (not error.sqlstate or error.sqlstate.startswith(_CLASSES))
    if isinstance(error, TimeoutError):
        return type(error) is TimeoutError  # asyncpg's, for a connection
    # the last, where a connection ends in the moment in which it is used
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)
