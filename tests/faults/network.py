"""The network between two parts is cut by NetworkPolicy, and what was connected is cut off too."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .cluster import pause
from .fault import Fault, Stage

# The API server is no pod; it listens on its node.
KUBERNETES = "kubernetes"

_APPLIED_WITHIN_SECONDS = 2.0  # what a network agent takes to see a policy
_POLICY = "faults-cut"


@dataclass(frozen=True, kw_only=True)
class Cut(Fault):
    """`source` can no longer reach `target`.

    Policies add up, so where the release has one that allows the way, that one is changed; where nothing is denied (the
    stock side), a policy allows everything but the target.
    """

    source: str
    target: str
    lasts: float = 30.0

    def inject(self, stage: Stage) -> None:
        if stage.side.name == "ours":
            name = stage.side.object_name(self.source)
            policy = stage.side.kubectl.get("networkpolicy", name)
            stage.kept[name] = policy
            egress = [rule for rule in policy["spec"]["egress"] if not self._allows(rule)]
            if len(egress) == len(policy["spec"]["egress"]):
                raise AssertionError(f"the policy {name} allows no way to {self.target}")
            self._set_egress(stage, name, egress)
        else:
            stage.side.hands.apply(self._everything_but(stage))
        pause(_APPLIED_WITHIN_SECONDS)
        stage.side.hands.forget_connections(stage.side.pods(self.source), self._addresses(stage))

    def heal(self, stage: Stage) -> None:
        """Allow the way again."""
        for name, policy in stage.kept.items():
            self._set_egress(stage, name, policy["spec"]["egress"])
        stage.kept.clear()
        if stage.side.name == "stock":
            stage.side.hands.delete(f"networkpolicy/{_POLICY}")
        pause(_APPLIED_WITHIN_SECONDS)

    def restore(self, stage: Stage) -> None:
        self.heal(stage)

    def _allows(self, rule: dict[str, Any]) -> bool:
        """Whether an egress rule leads to the target."""
        if "to" not in rule:
            return self.target == KUBERNETES
        selected = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule["to"]]
        return any(labels.get("app.kubernetes.io/component") == self.target for labels in selected)

    def _set_egress(self, stage: Stage, name: str, egress: list[dict[str, Any]]) -> None:
        stage.side.hands.change(f"networkpolicy/{name}", lambda policy: policy["spec"].update(egress=egress))

    def _everything_but(self, stage: Stage) -> dict[str, Any]:
        addresses = [f"{address}/32" for address in self._addresses(stage)]
        selected = (
            {"matchExpressions": [{"key": "prefect.io/flow-run-id", "operator": "Exists"}]}
            if self.source == "flow-run"
            else {"matchLabels": {"app": self.source}}
        )
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": _POLICY},
            "spec": {
                "podSelector": selected,
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": addresses}}]}],
            },
        }

    def _addresses(self, stage: Stage) -> Iterable[str]:
        """Where the target's pods are; the API server is at its node's address."""
        if self.target == KUBERNETES:
            nodes = stage.side.kubectl.items("nodes", "--selector", "node-role.kubernetes.io/control-plane")
            found = [address for node in nodes for address in node["status"]["addresses"]]
            return [address["address"] for address in found if address["type"] == "InternalIP"]
        return [pod["status"]["podIP"] for pod in stage.side.pods(self.target) if pod["status"].get("podIP")]
