"""Why a run failed: from its end in Prefect, how its pod ended, and the last error it logged. Nothing here does I/O."""

import re

from orchestrator.holds import Finding
from orchestrator.runs import State
from orchestrator.workloads import Pod

SIGKILL = 137
SIGTERM = 143
EVICTIONS = frozenset({"Evicted", "NodeShutdown", "NodeLost", "Terminated", "Preempting", "Shutdown"})
BY_ERROR = {
    "SourceUnavailable": "PL101",
    "CircuitOpen": "PL101",
    "SourceRefused": "PL102",
    "BadData": "PL103",
    "TimeoutError": "PL104",
    "TimedOut": "PL104",
    "FlowRunTimeoutError": "PL104",
    "TaskRunTimeoutError": "PL104",
    "QueryCanceled": "PL104",
    "MemoryError": "PL105",
    "TooFewDays": "PL115",
    "StaleDays": "PL116",
}
RAISED = re.compile(r"exception: (?P<type>[A-Za-z_][\w.]*)(?::|$)")
# What Prefect's own parts say of runs whose code could not say anything.
BY_MESSAGE = [
    (re.compile(r"heartbeat|zombie", re.IGNORECASE), "PL113"),
    (re.compile(r"out of memory|OOM|-9\b.*memory", re.IGNORECASE), "PL105"),
    (re.compile(r"evict", re.IGNORECASE), "PL106"),
    (re.compile(r"could not be submitted|failed to create|unable to create", re.IGNORECASE), "PL112"),
    (re.compile(r"not started within", re.IGNORECASE), "PL114"),
    (re.compile(r"pod is gone|job (ended or )?was deleted|no longer exists", re.IGNORECASE), "PL109"),
    (re.compile(r"could not be loaded: |interrupted by an unexpected exception"), "PL107"),
    (re.compile(r"exited|status code|exit code|signal|has failed|job failed", re.IGNORECASE), "PL108"),
]
PLACE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)\n\s*(?P<code>[^\n]*)')


def cause(
    *,
    state: State,
    state_name: str,
    message: str | None,
    handed_over: bool,
    pod: Pod | None,
    last_error: str | None,
) -> Finding:
    """The cause of a run that ended Failed or Crashed.

    `pod` is the last that was seen of the run's pod, `last_error` the last error in its log, with its traceback.
    """
    said = " ".join((message or "").split())
    if not handed_over:
        return Finding(kind="PL110", detail=said)
    if state_name == "NotFound":
        return Finding(kind="PL111", detail=said)
    raised = RAISED.search(said) if state is State.FAILED else None
    by_pod = _by_pod(pod)
    if by_pod is not None and (raised is None or by_pod.kind == "PL105"):
        return by_pod
    if state_name == "TimedOut":
        return Finding(kind="PL104", detail=said)
    if raised is not None:
        return _by_error(raised["type"], said, last_error)
    return _by_message(said, last_error)


def _by_pod(pod: Pod | None) -> Finding | None:
    if pod is None:
        return None
    names = {"pod": pod.name}
    flow = pod.flow
    disruption = pod.condition("DisruptionTarget")
    if flow is not None and flow.terminated == "OOMKilled":
        detail = f"container {flow.name} of pod {pod.name}: OOMKilled, exit code {flow.exit_code}, on node {pod.node}"
        return Finding(kind="PL105", detail=detail, names=names)
    if pod.reason in EVICTIONS or (disruption is not None and disruption.status == "True"):
        why = pod.message or (disruption.message if disruption else "")
        how = pod.reason or (disruption.reason if disruption else "")
        return Finding(kind="PL106", detail=f"pod {pod.name} on node {pod.node}: {how}: {why}", names=names)
    if flow is not None and flow.terminated is not None and flow.exit_code:
        signal = {SIGKILL: ", SIGKILL", SIGTERM: ", SIGTERM"}.get(flow.exit_code, "")
        detail = f"container {flow.name} of pod {pod.name}: {flow.terminated}, exit code {flow.exit_code}{signal}"
        return Finding(kind="PL108", detail=detail, names=names)
    return None


def _by_error(kind: str, said: str, last_error: str | None) -> Finding:
    name = kind.rsplit(".", maxsplit=1)[-1]
    if name in BY_ERROR:
        return Finding(kind=BY_ERROR[name], detail=said)
    line = where(last_error)
    return Finding(kind="PL107", detail=f"{said} ({line})" if line else said)


def _by_message(said: str, last_error: str | None) -> Finding:
    kind = next((kind for pattern, kind in BY_MESSAGE if pattern.search(said)), "PL199")
    more = f" ({_last_line(last_error)})" if kind == "PL112" and last_error else ""
    return Finding(kind=kind, detail=f"{said}{more}" if said else "Prefect gives no message")


def where(traceback: str | None) -> str | None:
    """The place of the error: the last file and line of a traceback, and the line of code there."""
    if not traceback:
        return None
    places = list(PLACE.finditer(traceback))
    if not places:
        return None
    last = places[-1]
    file = "/".join(last["file"].split("/")[-2:])
    return f"{file}:{last['line']} in {last['name']}: {last['code'].strip()}"


def _last_line(text: str) -> str:
    return " ".join(text.strip().rsplit("\n", maxsplit=1)[-1].split())[:300]
