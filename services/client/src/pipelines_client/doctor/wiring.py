"""What the release's parts are told of each other: Secrets, work pool, schedules, and the way to the source."""

import ipaddress
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from pipelines_client.doctor.checks import Category, Check, Finding, NotApplicable, Side
from pipelines_client.doctor.sights import Sights
from pipelines_client.doctor.sights.cluster import COMPONENT, INSTANCE, Object, name

NEARLY_FULL = 0.1
SOURCE_URL = "ETL_SOURCE_URL"


def _secrets(sights: Sights) -> Finding | None:
    wanted: dict[str, set[str]] = {}
    for env in _environments(sights):
        reference = (env.get("valueFrom") or {}).get("secretKeyRef")
        if reference and not reference.get("optional"):
            wanted.setdefault(reference["name"], set()).add(reference["key"])
    for workload in sights.cluster.workloads:
        for volume in workload["spec"]["template"]["spec"].get("volumes") or ():
            secret = volume.get("secret")
            if secret:
                wanted.setdefault(secret["secretName"], set()).update(one["key"] for one in secret.get("items") or ())
    wrong = []
    for secret, keys in sorted(wanted.items()):
        have = sights.cluster.keys(secret)
        if have is None:
            wrong.append((secret, f"Secret {secret} is not there"))
        elif keys - have:
            wrong.append((secret, f"Secret {secret} has no key {', '.join(sorted(keys - have))}"))
    if not wrong:
        return None
    return Finding(what="; ".join(said for _, said in wrong), names={"secret": wrong[0][0]})


def _environments(sights: Sights) -> Iterator[Object]:
    """Every environment variable of the parts' containers, and of those that runs get."""
    for workload in sights.cluster.workloads:
        pod = workload["spec"]["template"]["spec"]
        for container in (*(pod.get("initContainers") or ()), *pod["containers"]):
            yield from container.get("env") or ()
    yield from _flow_environment(sights)


def _flow_environment(sights: Sights) -> list[Object]:
    told = sights.cluster.registration
    if told is None:
        return []
    job = told["workPool"]["baseJobTemplate"]["job_configuration"]["job_manifest"]
    return [one for container in job["spec"]["template"]["spec"]["containers"] for one in container.get("env") or ()]


def _pool(sights: Sights) -> Finding | None:
    told = sights.cluster.registration
    if told is None:
        raise NotApplicable
    for deployment in sights.cluster.component("deployments", "worker"):
        [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
        arguments = [*(container.get("command") or ()), *(container.get("args") or ())]
        pools = _option(arguments, "--pool", "-p")
        queues = _option(arguments, "--work-queue", "-q")
        if pools != [told["workPool"]["name"]]:
            runs_go_to = told["workPool"]["name"]
            what = f"Deployment {name(deployment)} polls pool {', '.join(pools)}, and runs go to {runs_go_to}"
            return Finding(what=what, names={"worker": name(deployment)})
        alone = {one["workQueue"] for one in told["deployments"]} - set(queues)
        if queues and alone:
            what = (
                f"Deployment {name(deployment)} polls queue {', '.join(queues)}, and nobody {', '.join(sorted(alone))}"
            )
            return Finding(what=what, names={"worker": name(deployment)})
    return None


def _option(arguments: list[str], long: str, short: str) -> list[str]:
    """What a command line says of an option, however it is written."""
    found = [one.partition("=")[2] for one in arguments if one.startswith(f"{long}=")]
    return found + [value for option, value in pairwise(arguments) if option in {long, short}]


def _way_to_source(sights: Sights) -> Finding | None:
    url = next((one.get("value") for one in _flow_environment(sights) if one["name"] == SOURCE_URL), None)
    if not url:
        raise NotApplicable
    policies = [one for one in sights.cluster.listed("networkpolicies") if _is_about_runs(sights, one)]
    egress = [one for one in policies if "Egress" in (one["spec"].get("policyTypes") or ())]
    if not egress:
        return None  # nobody denies anything
    rules = [rule for one in egress for rule in one["spec"].get("egress") or ()]
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    if any(_lets_through(rule, parts.hostname or "", port, sights) for rule in rules):
        return None
    cidr = f"{parts.hostname}/32" if _address(parts.hostname or "") else "YOUR-SOURCE/32"
    what = f"runs fetch from {parts.hostname}:{port}, and no rule of {', '.join(map(name, egress))} lets them"
    return Finding(what=what, names={"cidr": cidr, "port": port})


def _is_about_runs(sights: Sights, policy: Object) -> bool:
    """Whether a policy selects the pods of runs, by the labels that the base job template gives them."""
    runs = {INSTANCE: sights.cluster.instance, COMPONENT: "flow-run"}
    wanted: dict[str, str] = policy["spec"]["podSelector"].get("matchLabels") or {}
    return wanted.items() <= runs.items()


def _lets_through(rule: Object, host: str, port: int, sights: Sights) -> bool:
    """Whether a rule may let a run reach the host: by a name outside the cluster no rule can be told apart."""
    ports = rule.get("ports") or ()
    if ports and not any(_covers(one, port) for one in ports):
        return False
    peers = rule.get("to") or ()
    return not peers or any(_may_be(one, host, sights) for one in peers)


def _covers(allowed: Object, port: int) -> bool:
    if allowed.get("protocol", "TCP") != "TCP":
        return False
    first = str(allowed.get("port", ""))
    if not first.isdigit():  # every port, or a name of one of the pods that are selected
        return True
    return int(first) <= port <= int(allowed.get("endPort", first))


def _may_be(peer: Object, host: str, sights: Sights) -> bool:
    inside = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+(\.svc(\..+)?)?)?", host) if not _address(host) else None
    if "ipBlock" in peer:
        address = _address(host)
        block = peer["ipBlock"]
        if address is None:
            return inside is None or "." in host  # a Service without a namespace is selected by labels, or not at all
        blocked = any(address in ipaddress.ip_network(one) for one in block.get("except") or ())
        return address in ipaddress.ip_network(block["cidr"]) and not blocked
    if inside is None:
        return False
    if "namespaceSelector" in peer:
        return True
    wanted: dict[str, str] = (peer.get("podSelector") or {}).get("matchLabels") or {}
    return "." not in host and wanted.items() <= _labels_of_service(sights, host).items()


def _labels_of_service(sights: Sights, service: str) -> dict[str, str]:
    """By what a Service of the release's namespace selects its pods."""
    for one in sights.cluster.listed("services"):
        if name(one) == service:
            found: dict[str, str] = one["spec"].get("selector") or {}
            return found
    return {}


def _address(host: str) -> Any:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _schedules(sights: Sights) -> Finding | None:
    told = sights.cluster.registration
    if told is None:
        raise NotApplicable
    offered = {one.deployment.partition("/")[2]: one for one in sights.service.pipelines}
    different = []
    for deployment in told["deployments"]:
        pipeline = offered.get(deployment["name"])
        if pipeline is None or not pipeline.registered:
            continue  # who may not read it, or PL340
        values = {(_when(one), one.get("timezone") or "UTC") for one in deployment["schedules"]}
        prefect = {(one.cron or one.rrule or one.interval_seconds, one.timezone) for one in pipeline.schedules}
        if values != prefect:
            different.append(f"{pipeline.name}: the values say {_told(values)}, Prefect has {_told(prefect)}")
    return Finding(what="; ".join(different), warning=True) if different else None


def _when(schedule: Object) -> Any:
    return schedule.get("cron") or schedule.get("rrule") or schedule.get("interval")


def _told(schedules: set[tuple[Any, str]]) -> str:
    return ", ".join(sorted(f"{when} {zone}" for when, zone in schedules)) or "no schedule"


def _disk(sights: Sights) -> Finding | None:
    claims = {name(one) for one in sights.cluster.listed("persistentvolumeclaims")}
    mounting = {
        pod["spec"]["nodeName"]
        for pod in sights.cluster.pods
        for volume in pod["spec"].get("volumes") or ()
        if (volume.get("persistentVolumeClaim") or {}).get("claimName") in claims and pod["spec"].get("nodeName")
    }
    told = {}
    for node in sorted(mounting):
        for volume in sights.cluster.volumes(node):
            claim = volume.get("pvcRef") or {}
            if claim.get("namespace") == sights.cluster.namespace and claim.get("name") in claims:
                told[claim["name"]] = (volume["availableBytes"], volume["capacityBytes"])
    if not told:
        raise NotApplicable  # no volume, or one of a kind that its kubelet does not measure
    full = [
        f"{claim}: {left / 1024**2:.0f} MiB of {whole / 1024**2:.0f} MiB are left"
        for claim, (left, whole) in told.items()
        if left < whole * NEARLY_FULL
    ]
    return Finding(what="; ".join(full)) if full else None


CATEGORY = Category(
    name="wiring",
    about="what the parts are told of each other",
    side=Side.CLUSTER,
    checks=(
        Check(
            id="PL325",
            description="every Secret is there with the keys that are read",
            meaning="A pod reads a Secret, or a key of one, that is not there, and cannot start. Values are not read.",
            command="{kubectl} describe secret {secret}",
            look=_secrets,
            needs=("PL320",),
        ),
        Check(
            id="PL326",
            description="runs may reach their source",
            meaning="The NetworkPolicies name no way to flowRuns.sourceUrl, and deny what they do not name.",
            command="{helm} upgrade {release} charts/pipelines --reuse-values --set-json"
            ' \'flowRuns.egress=[{{"to":[{{"ipBlock":{{"cidr":"{cidr}"}}}}],"ports":[{{"port":{port}}}]}}]\'',
            look=_way_to_source,
            needs=("PL320",),
        ),
        Check(
            id="PL005",
            description="the worker polls the pool and queues of the deployments",
            meaning="Workers are online, and poll another pool, or other queues of it, than runs go to.",
            command="{kubectl} get deployment {worker} --output yaml",
            look=_pool,
            needs=("PL320",),
        ),
        Check(
            id="PL327",
            description="Prefect has the schedules of the values",
            meaning="Somebody changed a schedule in Prefect, or the values' registration did not get there.",
            command="{kubectl} get configmaps --selector app.kubernetes.io/component=registration --output yaml",
            look=_schedules,
            needs=("PL320", "PL336"),
        ),
        Check(
            id="PL328",
            description="the volumes are not nearly full",
            meaning="Less than a tenth of a volume is left: PostgreSQL stops when nothing is.",
            command="{kubectl} exec statefulset/{prefix}-postgresql -- df -h /var/lib/postgresql/data",
            look=_disk,
            needs=("PL320",),
        ),
    ),
)
