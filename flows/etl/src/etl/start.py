"""The flow pod's command: `python -m etl.start` waits for the Prefect API, then becomes `prefect flow-run execute`.

Prefect does not retry a process's first connection, so a server that restarts at that moment, or a network policy that
takes a second to apply, would crash the run. Only the standard library is imported: this process costs milliseconds.
"""

import os
import sys
import time
import urllib.error
import urllib.request

_ATTEMPT_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.2


def wait_for_api(api_url: str, *, within_seconds: float) -> None:
    """Return once the API answers its health check.

    Raises:
        TimeoutError: it did not within the given time; the text carries the last reason.
    """
    if not api_url.startswith(("http://", "https://")):
        raise ValueError(f"PREFECT_API_URL is {api_url!r}: set it to the server's API, such as http://prefect:4200/api")
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            with urllib.request.urlopen(f"{api_url}/health", timeout=_ATTEMPT_TIMEOUT_SECONDS):  # noqa: S310 - http(s), checked above
                return
        except (urllib.error.URLError, OSError) as exc:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the Prefect API at {api_url} did not answer within {within_seconds:g} s: {exc}"
                ) from exc
        time.sleep(_PAUSE_SECONDS)


def _seconds(variable: str, *, default: float) -> float:
    value = os.environ.get(variable)
    try:
        return default if value is None else float(value)
    except ValueError:
        raise ValueError(f"{variable} is {value!r}: set it to a number of seconds") from None


def main() -> None:
    """Wait, then hand this process over; never returns."""
    try:
        wait_for_api(os.environ.get("PREFECT_API_URL", ""), within_seconds=_seconds("ETL_API_WAIT_SECONDS", default=60))
    except (TimeoutError, ValueError) as exc:
        sys.exit(str(exc))
    os.execvp("prefect", ["prefect", "flow-run", "execute"])  # noqa: S606, S607 - the venv's own prefect, first in PATH


if __name__ == "__main__":
    main()
