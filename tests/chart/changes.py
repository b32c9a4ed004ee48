"""What a new version of the chart may not change under an installed release: the comparison alone, without helm."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]

# What Kubernetes refuses to change in place, or what takes data, clients or rights with it; with its default.
IMMUTABLE: dict[str, dict[str, Any]] = {
    "DaemonSet": {"spec.selector": None},
    "Deployment": {"spec.selector": None},
    "StatefulSet": {
        "spec.selector": None,
        "spec.serviceName": None,
        "spec.podManagementPolicy": "OrderedReady",
        "spec.volumeClaimTemplates": None,
    },
    # Jobs here are named by what they do: another template under the same name is a mistake in the name.
    "Job": {
        "spec.selector": None,
        "spec.template": None,
        "spec.completions": None,
        "spec.completionMode": "NonIndexed",
    },
    "Service": {"spec.type": "ClusterIP", "spec.clusterIP": None},
    "PersistentVolumeClaim": {"spec": None},
    "Secret": {"type": "Opaque"},
    "RoleBinding": {"roleRef": None},
    "ClusterRoleBinding": {"roleRef": None},
    "StorageClass": {
        "provisioner": None,
        "parameters": None,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    },
    "PriorityClass": {"value": None, "preemptionPolicy": "PreemptLowerPriority"},
}
# What may not change either, once the object says `immutable: true`.
SEALED = ("immutable", "data", "stringData", "binaryData")

KEEP = ("helm.sh/resource-policy", "keep")

# A name that ends in the hash of what the object holds changes with it.
_HASH = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True, kw_only=True, order=True)
class Change:
    """One thing that an upgrade would do to an installed release. `where` is Kind/name, or a value's path."""

    where: str
    what: str
    # Listed with a reason in CHANGES.yaml, it may be.
    may_be_listed: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def of_objects(before: Iterable[Manifest], after: Iterable[Manifest]) -> list[Change]:
    """The forbidden changes between two renderings of one release; objects of hooks are not part of a release."""
    old, new = _by_name(before), _by_name(after)
    families = {_family(name) for name in new}
    changes = list[Change]()
    for name, was in old.items():
        if name in new:
            changes += _in_place(name, was, new[name])
        elif _is_kept(was):
            changes.append(Change(where=name, what="it is kept with its data, which the new version would not find"))
        elif was["kind"] == "PersistentVolumeClaim":
            changes.append(Change(where=name, what="the claim is gone, and its data with it"))
        elif _family(name) not in families:
            changes.append(Change(where=name, what="it is gone", may_be_listed=True))
    lost = set(_claims(old.values())) - set(_claims(new.values()))
    changes += [
        Change(where=f"PersistentVolumeClaim/{claim}", what="no StatefulSet uses it any more") for claim in lost
    ]
    return sorted(changes)


def of_values(before: Iterable[str], after: Iterable[str]) -> list[Change]:
    """The values' paths that are gone; of a branch that is gone as a whole, the branch."""
    gone = set(before) - set(after)
    tops = {path for path in gone if not any(path.startswith((f"{other}.", f"{other}[]")) for other in gone)}
    return [Change(where=path, what="the value is gone", may_be_listed=True) for path in sorted(tops)]


def unlisted(changes: Iterable[Change], listed: Iterable[str]) -> list[Change]:
    """The changes that no list excuses."""
    excused = set(listed)
    return [change for change in changes if not (change.may_be_listed and change.where in excused)]


def paths(values: Any, at: str = "") -> set[str]:
    """Every key of a values file by its path, maps only: `images.etl.tag`."""
    found = set[str]()
    if isinstance(values, Mapping):
        for key, value in values.items():
            found |= {f"{at}{key}"} | paths(value, f"{at}{key}.")
    return found


def schema_paths(schema: Manifest) -> set[str]:
    """Every key that a values schema describes, by its path, entries of lists included: `pipelines[].schedules[].cron`.

    Without those marked `deprecated`: they are there to be refused.
    """

    def walk(node: Manifest, at: str) -> Iterator[str]:
        node = _resolved(node, schema)
        for key, below in node.get("properties", {}).items():
            if not below.get("deprecated"):
                yield f"{at}{key}"
                yield from walk(below, f"{at}{key}.")
        if "items" in node:
            yield from walk(node["items"], f"{at.removesuffix('.')}[].")

    return set(walk(schema, ""))


def known(values: Any, schema: Manifest) -> Any:
    """Of the values, what a chart with this schema knows. A key of a map that the schema leaves open is known."""

    def keep(value: Any, node: Manifest) -> Any:
        node = _resolved(node, schema)
        if isinstance(value, Mapping) and "properties" in node:
            return {key: keep(one, node["properties"][key]) for key, one in value.items() if key in node["properties"]}
        if isinstance(value, list) and "items" in node:
            return [keep(one, node["items"]) for one in value]
        return value

    return keep(values, schema)


def _resolved(node: Manifest, schema: Manifest) -> Manifest:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _by_name(objects: Iterable[Manifest]) -> dict[str, Manifest]:
    return {
        f"{one['kind']}/{one['metadata']['name']}": one
        for one in objects
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }


def _family(name: str) -> str:
    return _HASH.sub("-", name)


def _is_kept(one: Manifest) -> bool:
    key, value = KEEP
    return bool(one["metadata"].get("annotations", {}).get(key) == value)


def _in_place(name: str, was: Manifest, now: Manifest) -> list[Change]:
    fields = dict(IMMUTABLE.get(was["kind"], {}))
    if was.get("immutable"):
        fields |= dict.fromkeys(SEALED)
    changes = [
        Change(where=name, what=f"{field} is immutable and changes from {before!r} to {after!r}")
        for field, default in fields.items()
        if (before := _at(was, field, default)) != (after := _at(now, field, default))
    ]
    if _is_kept(was) and not _is_kept(now):
        changes.append(Change(where=name, what="it was kept after `helm uninstall`, and is no longer"))
    return changes


def _at(one: Any, path: str, default: Any) -> Any:
    for key in path.split("."):
        one = one.get(key) if isinstance(one, Mapping) else None
    return default if one is None else one


def _claims(objects: Iterable[Manifest]) -> Iterator[str]:
    """What the StatefulSets' first pods claim."""
    for one in objects:
        if one["kind"] == "StatefulSet":
            for claim in one["spec"].get("volumeClaimTemplates", []):
                yield f"{claim['metadata']['name']}-{one['metadata']['name']}-0"
