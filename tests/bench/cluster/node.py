"""What pods take, read from the node's control groups: CPU time and peak memory, also of pods that have ended."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# A group goes with its pod, so all are read over and over; by bash alone, which starts no process for it. It waits by
# reading its input, and ends with it. The first half is for version 1 of control groups, the second for version 2.
_READER = r"""
shopt -s globstar nullglob
cpus=/sys/fs/cgroup/cpuacct memories=/sys/fs/cgroup/memory
while :; do
  for group in $cpus/kubelet*/**/*pod*.slice; do
    memory=$memories${group#$cpus}/memory.max_usage_in_bytes
    read -r cpu < "$group/cpuacct.usage" && read -r peak < "$memory" && echo "$group $cpu $peak"
  done 2> /dev/null
  for group in /sys/fs/cgroup/kubelet*/**/*pod*.slice; do
    read -r _ cpu < "$group/cpu.stat" && read -r peak < "$group/memory.peak" && echo "$group ${cpu}000 $peak"
  done 2> /dev/null
  read -r -t 0.2
  [ $? -gt 128 ] || exit 0
done
"""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a pod has taken since it began: CPU in seconds, the peak of its memory in bytes."""

    cpu_seconds: float
    peak_bytes: float


@dataclass
class Node:
    """The newest reading of every pod's group by the pod's uid, kept when the pod is gone."""

    name: str
    readings: dict[str, Taken] = field(default_factory=dict)

    def taken(self, uid: str) -> Taken | None:
        """What that pod has taken, as far as it was seen."""
        return self.readings.get(uid)

    def follow(self, lines: Iterator[str]) -> None:
        """Take over what the reader says, until it ends."""
        for line in lines:
            found = re.match(r"\S*pod([0-9a-f_-]{36})\.slice (\d+) (\d+)$", line)
            if found:
                uid, cpu, peak = found.groups()
                taken = Taken(cpu_seconds=int(cpu) / 1e9, peak_bytes=float(peak))
                self.readings[uid.replace("_", "-")] = taken


@contextmanager
def watched(cluster: str) -> Iterator[Node]:
    """The only node of a kind cluster, read while the block lasts.

    Raises:
        TimeoutError: nothing was read.
    """
    node = Node(name=f"{cluster}-control-plane")
    command = ["docker", "exec", "--interactive", node.name, "bash", "-c", _READER]
    reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdin is not None
    assert reader.stdout is not None
    threading.Thread(target=node.follow, args=(iter(reader.stdout.readline, ""),), daemon=True).start()
    try:
        deadline = time.monotonic() + 30
        while not node.readings:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no control group of a pod was read in {node.name}")
            time.sleep(0.1)
        yield node
    finally:
        reader.stdin.close()
        reader.wait(30)
