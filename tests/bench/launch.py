"""Runs one command and writes down what it took. A process of its own, started as a plain file, because it is small.

The kernel counts the memory of the process that forked into a child's peak, up to the moment of its exec: measured from
the large process of a benchmark, every child would seem as large as that.
"""

import json
import os
import sys
import time


def main(file: str, command: list[str]) -> int:
    """Write the command's seconds, CPU seconds and peak memory as JSON; its exit code."""
    begun = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(child, 0)
    with open(file, "w") as out:  # noqa: PTH123 - pathlib would double what this process takes
        json.dump(
            {
                "seconds": time.monotonic() - begun,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            },
            out,
        )
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
