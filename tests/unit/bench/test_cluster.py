"""What the benchmarks on a cluster read: the node's control groups, and a run's end."""

from tests.bench.cluster.node import Node, Taken

UID = "5817abb5-32bb-40e6-9266-f50fd99fcb7c"
GROUP = f"/sys/fs/cgroup/cpuacct/kubelet.slice/kubelet-kubepods-pod{UID.replace('-', '_')}.slice"


def test_the_last_reading_of_a_pod_stays() -> None:
    """By its uid, in seconds and bytes, also when its group is gone."""
    node = Node(name="node")
    node.follow(iter([f"{GROUP} 1500000000 1000\n", f"{GROUP} 2500000000 4096\n"]))
    assert node.taken(UID) == Taken(cpu_seconds=2.5, peak_bytes=4096)


def test_other_groups_are_not_pods() -> None:
    """The slice of all pods, and a line that was cut, say nothing."""
    node = Node(name="node")
    node.follow(iter(["/sys/fs/cgroup/cpuacct/kubelet.slice/kubelet-kubepods.slice 930262777317 1\n", f"{GROUP} 15\n"]))
    assert node.readings == {}
