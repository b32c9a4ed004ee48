"""The cluster, before anything is installed and after: the way to it, its version, what it allows."""

import re

from pipelines_client.doctor.checks import Category, Check, Finding, NotApplicable, Side, When
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import Object, labels, name

OLDEST = (1, 29)
ENFORCED = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
MADE = (
    ("", "configmaps"),
    ("", "persistentvolumeclaims"),
    ("", "secrets"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("batch", "jobs"),
    ("networking.k8s.io", "networkpolicies"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
)
PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure")


def _known(sights: Sights) -> Finding | None:
    _ = sights.cluster.cluster
    return None


def _answers(sights: Sights) -> Finding | None:
    _ = sights.cluster.version
    return None


def _version(sights: Sights) -> Finding | None:
    told = sights.cluster.version
    found = tuple(int(re.sub(r"\D.*", "", told[part]) or 0) for part in ("major", "minor"))
    if found >= OLDEST:
        return None
    return Finding(what=f"the API server is {told.get('gitVersion', found)}, older than 1.29, which the chart asks for")


def _may_create(sights: Sights) -> Finding | None:
    cluster, namespace = sights.cluster.cluster, sights.cluster.namespace
    missing = [kind for group, kind in MADE if not cluster.may("create", kind, group=group, namespace=namespace)]
    if not missing:
        return None
    return Finding(what=f"you may not create {', '.join(missing)} in namespace {namespace}", names={"kind": missing[0]})


def _pod_security(sights: Sights) -> Finding | None:
    if not sights.before:
        sights.cluster.settle()
    namespace = sights.cluster.namespace_itself
    if namespace is None:
        raise NotApplicable
    level = labels(namespace).get(ENFORCED)
    if level == "restricted":
        return None
    return Finding(
        what=f"namespace {name(namespace)} enforces {level or 'no level'}, not restricted",
        warning=True,
        names={"namespace": name(namespace)},
    )


def _default_class(sights: Sights) -> Finding | None:
    classes = sights.cluster.classes()
    if any((one["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true" for one in classes):
        return None
    there = ", ".join(map(name, classes)) or "there is none at all"
    return Finding(what=f"no StorageClass is the default ({there})", warning=True)


def _nodes(sights: Sights) -> Finding | None:
    nodes = sights.cluster.nodes()
    told = {name(one): _troubles(one) for one in nodes}
    bad = {node: troubles for node, troubles in told.items() if troubles}
    if not bad:
        return None
    what = "; ".join(f"node {node}: {', '.join(troubles)}" for node, troubles in bad.items())
    return Finding(what=what, warning=len(bad) < len(nodes), names={"node": next(iter(bad))})


def _troubles(node: Object) -> list[str]:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", ())}
    return (["not Ready"] if conditions.get("Ready") != "True" else []) + [
        one for one in PRESSURES if conditions.get(one) == "True"
    ]


CATEGORY = Category(
    name="kubernetes",
    about="the cluster of the context",
    side=Side.CLUSTER,
    checks=(
        Check(
            id="PL310",
            description="a kubeconfig names a cluster",
            meaning="There is no kubeconfig, it has no current context, or not the one that was named.",
            command="kubectl config get-contexts",
            look=_known,
            when=When.BOTH,
            seconds=8.0,
        ),
        Check(
            id="PL311",
            description="the API server answers",
            meaning="The cluster's API server does not answer from here, or does not take the kubeconfig's credential.",
            command="{kubectl} cluster-info",
            look=_answers,
            needs=("PL310",),
            when=When.BOTH,
        ),
        Check(
            id="PL312",
            description="the API server is Kubernetes 1.29 or newer",
            meaning="helm refuses to install the chart on an older one.",
            command="{kubectl} version",
            look=_version,
            needs=("PL311",),
            when=When.BOTH,
        ),
        Check(
            id="PL313",
            description="you may create what the chart makes",
            meaning="`helm upgrade --install` would stop half way, at the first object that you may not create.",
            command="{kubectl} auth can-i create {kind}",
            look=_may_create,
            needs=("PL311",),
            when=When.BEFORE,
            seconds=8.0,
        ),
        Check(
            id="PL314",
            description="the namespace enforces PodSecurity restricted",
            meaning="The release's own pods keep to it; what else runs in the namespace is not held to it.",
            command="{kubectl} label namespace {namespace} pod-security.kubernetes.io/enforce=restricted",
            look=_pod_security,
            needs=("PL311",),
            when=When.BOTH,
            seconds=8.0,
        ),
        Check(
            id="PL315",
            description="there is a default StorageClass",
            meaning="The chart's PostgreSQL would wait for its volume: name a class in postgresql.storage.className.",
            command="{kubectl} get storageclasses",
            look=_default_class,
            needs=("PL311",),
            when=When.BEFORE,
        ),
        Check(
            id="PL316",
            description="nodes are Ready, with disk and memory to spare",
            meaning="A node is away, or wants disk, memory or process ids: it takes no pods, or evicts some.",
            command="{kubectl} describe node {node}",
            look=_nodes,
            needs=("PL311",),
            when=When.BOTH,
        ),
    ),
)
