"""Every fault, by name, in the order in which the report lists them."""

from typing import Any

from .facts import SideName
from .fault import (
    BOTH,
    OURS,
    Fault,
    backlog_drained,
    measured,
    next_acceptance,
    next_job,
    next_start_of_victims,
)
from .kills import (
    EvictedPods,
    KilledLeader,
    KilledPart,
    KilledPods,
    RestartedPostgresql,
    RollingUpdate,
    SecondPods,
    TooLittleMemory,
)
from .network import KUBERNETES, Cut
from .proxied import JobAnswerLost, Misbehaving, WorkerDiesBeforeJob


def _cut(source: str, target: str, *, sides: frozenset[SideName] = BOTH) -> Fault:
    names = {"flow-run": "flow", "prefect-server": "prefect"}
    source_name, target_name = names.get(source, source), names.get(target, target)
    return Cut(
        name=f"cut-{source_name}-{target_name}",
        title=f"network cut: {source_name} – {target_name}",
        source=source,
        target=target,
        sides=sides,
        recovery_of="healed → backlog running",
        recovery=backlog_drained,
    )


def _prefect(name: str, title: str, rule: dict[str, Any]) -> Fault:
    return Misbehaving(
        name=f"prefect-{name}",
        title=title,
        rule=rule,
        recovery_of="healed → backlog running",
        recovery=backlog_drained,
    )


_ALL: tuple[Fault, ...] = (
    Fault(
        name="none",
        title="no fault",
        recovery_of="",
        recovery=measured(""),
    ),
    KilledPart(
        name="orchestrator-sigkill",
        title="orchestrator: SIGKILL",
        part="orchestrator",
        sides=OURS,
        recovery_of="kill → next run accepted",
        recovery=next_acceptance,
    ),
    KilledLeader(
        name="leader-sigkill",
        title="orchestrator of two: the leader, SIGKILL",
        sides=OURS,
        recovery_of="kill → another follows Prefect",
        recovery=measured("lead taken over"),
    ),
    RollingUpdate(
        name="orchestrator-rolling",
        title="orchestrator: rolling update of two",
        sides=OURS,
        recovery_of="begin → next run accepted",
        recovery=next_acceptance,
    ),
    KilledPart(
        name="worker-sigkill",
        title="worker: SIGKILL",
        part="worker",
        recovery_of="kill → next Job",
        recovery=next_job,
    ),
    WorkerDiesBeforeJob(
        name="worker-dies-before-job",
        title="worker: SIGKILL between Pending and the Job",
        recovery_of="kill → run Running",
        recovery=next_start_of_victims,
    ),
    JobAnswerLost(
        name="job-answer-lost",
        title="worker: the answer to a Job's creation lost",
        recovery_of="",
        recovery=measured(""),
    ),
    KilledPart(
        name="prefect-sigkill",
        title="Prefect server: SIGKILL",
        part="prefect-server",
        recovery_of="Prefect back → backlog running",
        recovery=backlog_drained,
    ),
    RestartedPostgresql(
        name="postgresql-restart",
        title="PostgreSQL: restart",
        recovery_of="PostgreSQL back → backlog running",
        recovery=backlog_drained,
    ),
    KilledPods(
        name="flow-sigkill",
        title="flow pods: SIGKILL",
        recovery_of="kill → run Running again",
        recovery=next_start_of_victims,
    ),
    EvictedPods(
        name="eviction",
        title="flow pods: evicted",
        recovery_of="eviction → run Running again",
        recovery=next_start_of_victims,
    ),
    TooLittleMemory(
        name="oom",
        title="flow pods: out of memory",
        recovery_of="too little memory → run Running again",
        recovery=next_start_of_victims,
    ),
    SecondPods(
        name="duplicate-pod",
        title="a second pod of running runs",
        recovery_of="",
        recovery=measured(""),
    ),
    _cut("orchestrator", "prefect-server", sides=OURS),
    _cut("orchestrator", "postgresql", sides=OURS),
    _cut("prefect-server", "postgresql"),
    _cut("worker", "prefect-server"),
    _cut("worker", KUBERNETES),
    _cut("flow-run", "prefect-server"),
    _cut("flow-run", "postgresql"),
    _cut("flow-run", "source"),
    _prefect("latency", "Prefect: 5 s late", {"act": "late", "seconds": 5}),
    _prefect("500", "Prefect: answers 500", {"act": "refuse", "status": 500}),
    _prefect("429", "Prefect: answers 429", {"act": "refuse", "status": 429, "retry_after": 3}),
    _prefect("garbage", "Prefect: answers garbage", {"act": "garble"}),
)

FAULTS = {fault.name: fault for fault in _ALL}
