"""A Kubernetes Job with nothing around it: the same image, the same function. What no platform on Jobs can beat."""

import time
from dataclasses import dataclass

import httpx

from ..machine import awaited

_PROGRAM = "import time; trivial = lambda: 1; trivial(); print(time.time())"


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Moments in seconds after the request: the function had run, the Job was seen Complete. And the pod's uid."""

    function_seconds: float
    complete_seconds: float
    uid: str


def run(kubernetes: httpx.Client, *, namespace: str, image: str, number: int) -> Bare:
    """Make one, wait for its end, read what it printed, and remove it."""
    jobs, pods = f"/apis/batch/v1/namespaces/{namespace}/jobs", f"/api/v1/namespaces/{namespace}/pods"
    container = {
        "name": "bare",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _PROGRAM],
        "resources": {"requests": {"cpu": "150m"}},
    }
    spec = {"restartPolicy": "Never", "enableServiceLinks": False, "containers": [container]}
    name = f"bare-{number}-{int(time.time())}"
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": spec}},
    }
    begun = time.time()
    kubernetes.post(jobs, json=job).raise_for_status()

    def complete() -> float | None:
        conditions = kubernetes.get(f"{jobs}/{name}").raise_for_status().json()["status"].get("conditions", [])
        return time.time() if any(one["type"] == "Complete" for one in conditions) else None

    completed = awaited(complete, within=120, what=f"job {name} is complete", every=0.05)
    [pod] = kubernetes.get(pods, params={"labelSelector": f"job-name={name}"}).raise_for_status().json()["items"]
    printed = kubernetes.get(f"{pods}/{pod['metadata']['name']}/log").raise_for_status().text
    kubernetes.delete(f"{jobs}/{name}", params={"propagationPolicy": "Background"})
    return Bare(
        function_seconds=float(printed) - begun, complete_seconds=completed - begun, uid=str(pod["metadata"]["uid"])
    )
