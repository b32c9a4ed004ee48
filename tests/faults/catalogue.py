"""Every fault, by name, in the order in which the report lists them."""

from .fault import (
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
    SecondPods(
        name="duplicate-pod",
        title="a second pod of running runs",
        recovery_of="",
        recovery=measured(""),
    ),
)

FAULTS = {fault.name: fault for fault in _ALL}
