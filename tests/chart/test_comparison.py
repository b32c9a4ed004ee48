"""The comparison behind the gate: each kind of forbidden change, planted, is found and named."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from . import changes
from .changes import Change, Manifest

LABELS = {"app.kubernetes.io/instance": "pipelines"}
CLAIM = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "8Gi"}}}}
KEPT = {"helm.sh/resource-policy": "keep"}
HASH = "-0a1b2c3d"


def made(kind: str, name: str = "one", annotations: Manifest | None = None, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "annotations": dict(annotations or {})}, **fields}


INSTALLED = [
    made("Deployment", spec={"replicas": 1, "selector": {"matchLabels": LABELS}}),
    made("DaemonSet", spec={"selector": {"matchLabels": LABELS}}),
    made(
        "StatefulSet",
        spec={"selector": {"matchLabels": LABELS}, "serviceName": "one", "volumeClaimTemplates": [CLAIM]},
    ),
    made("Job", spec={"template": {"spec": {"containers": []}}}),
    made("Job", f"hashed{HASH}", spec={"template": {}}),
    made("Service", spec={"type": "ClusterIP", "clusterIP": "None"}),
    made("PersistentVolumeClaim", spec={"resources": {"requests": {"storage": "1Gi"}}}),
    made("Secret", type="Opaque", annotations=KEPT),
    made("Secret", "sealed", type="Opaque", immutable=True, data={"key": "dmFsdWU="}),
    made("ConfigMap", "sealed", immutable=True, data={"key": "value"}),
    made("ConfigMap", data={"key": "value"}),
    made("RoleBinding", roleRef={"kind": "Role", "name": "one"}),
    made("ClusterRoleBinding", roleRef={"kind": "ClusterRole", "name": "one"}),
    made("StorageClass", provisioner="example.com/disk"),
    made("PriorityClass", value=1000),
    made("Pod", "trial", annotations={"helm.sh/hook": "test"}),
]

Plant = Callable[[dict[str, Any]], object]

# What is planted into which object, and a word of what must be said about it.
PLANTED: dict[str, tuple[str, Plant, str]] = {
    "a Deployment's selector": ("Deployment/one", lambda o: o["spec"]["selector"].update(matchLabels={}), "selector"),
    "a DaemonSet's selector": ("DaemonSet/one", lambda o: o["spec"]["selector"].update(matchLabels={}), "selector"),
    "a StatefulSet's selector": ("StatefulSet/one", lambda o: o["spec"]["selector"].update(matchLabels={}), "selector"),
    "a StatefulSet's Service": ("StatefulSet/one", lambda o: o["spec"].update(serviceName="two"), "serviceName"),
    "a StatefulSet's order": (
        "StatefulSet/one",
        lambda o: o["spec"].update(podManagementPolicy="Parallel"),
        "podManagementPolicy",
    ),
    "a claim template's size": (
        "StatefulSet/one",
        lambda o: o["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"].update(storage="9Gi"),
        "volumeClaimTemplates",
    ),
    "a Job's template": ("Job/one", lambda o: o["spec"].update(template={}), "template"),
    "a Service's type": ("Service/one", lambda o: o["spec"].update(type="LoadBalancer"), "type"),
    "a headless Service": ("Service/one", lambda o: o["spec"].pop("clusterIP"), "clusterIP"),
    "a claim": ("PersistentVolumeClaim/one", lambda o: o["spec"].update(storageClassName="other"), "spec"),
    "a Secret's type": ("Secret/one", lambda o: o.update(type="kubernetes.io/tls"), "type"),
    "a Secret that is no longer kept": ("Secret/one", lambda o: o["metadata"].pop("annotations"), "kept"),
    "an immutable Secret's data": ("Secret/sealed", lambda o: o["data"].update(key="b3RoZXI="), "data"),
    "an immutable Secret opened": ("Secret/sealed", lambda o: o.pop("immutable"), "immutable"),
    "an immutable ConfigMap's data": ("ConfigMap/sealed", lambda o: o.update(data={}), "data"),
    "a RoleBinding's role": ("RoleBinding/one", lambda o: o["roleRef"].update(name="two"), "roleRef"),
    "a ClusterRoleBinding's role": ("ClusterRoleBinding/one", lambda o: o["roleRef"].update(name="two"), "roleRef"),
    "a PriorityClass": ("PriorityClass/one", lambda o: o.update(value=1), "value"),
    "a StorageClass": ("StorageClass/one", lambda o: o.update(reclaimPolicy="Retain"), "reclaimPolicy"),
}


def upgraded() -> dict[str, dict[str, Any]]:
    """What is installed, to be changed, by Kind/name."""
    return {f"{one['kind']}/{one['metadata']['name']}": copy.deepcopy(one) for one in INSTALLED}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_change_in_place_is_found(planted: str) -> None:
    """By the object and the field, alone, and no list excuses it."""
    where, plant, word = PLANTED[planted]
    after = upgraded()
    plant(after[where])
    found = changes.of_objects(INSTALLED, after.values())
    assert {change.where for change in found} == {where}
    assert any(word in change.what for change in found), found
    assert changes.unlisted(found, [where]) == found


def test_every_kind_with_immutable_fields_is_planted() -> None:
    """A kind added to the comparison gets a case here."""
    planted = {where.partition("/")[0] for where, _, _ in PLANTED.values()}
    assert set(changes.IMMUTABLE) <= planted


def test_nothing_changed_is_nothing_found() -> None:
    assert changes.of_objects(INSTALLED, upgraded().values()) == []


def test_what_may_change_is_not_found() -> None:
    """Replicas, a ConfigMap's data, a default written out, a hook, something new, and a Job under another hash."""
    after = upgraded()
    after["Deployment/one"]["spec"]["replicas"] = 2
    after["ConfigMap/one"]["data"] = {"key": "other"}
    after["StatefulSet/one"]["spec"]["podManagementPolicy"] = "OrderedReady"
    del after["Pod/trial"]
    after["new"] = made("Service", "new", spec={})
    after[f"Job/hashed{HASH}"] = made("Job", "hashed-ffffffff", spec={"template": {"spec": {}}})
    assert changes.of_objects(INSTALLED, after.values()) == []


def test_a_removed_object_must_be_listed() -> None:
    """A Job whose whole family is gone too."""
    for name in ("Deployment/one", f"Job/hashed{HASH}"):
        after = upgraded()
        del after[name]
        found = changes.of_objects(INSTALLED, after.values())
        assert found == [Change(where=name, what="it is gone", may_be_listed=True)]
        assert changes.unlisted(found, [name]) == []
        assert changes.unlisted(found, ["Deployment/other"]) == found


@pytest.mark.parametrize("name", ["Secret/one", "PersistentVolumeClaim/one"])
def test_kept_data_under_another_name_is_never_excused(name: str) -> None:
    """A new installation would begin with an empty one beside it."""
    after = upgraded()
    after[name]["metadata"]["name"] = "two"
    found = changes.of_objects(INSTALLED, after.values())
    assert [change.where for change in found] == [name]
    assert changes.unlisted(found, [name]) == found


@pytest.mark.parametrize("rename", ["StatefulSet", "claim"])
def test_a_claim_that_nobody_uses_is_never_excused(rename: str) -> None:
    """Neither by another StatefulSet's name, even where its removal is listed, nor by another template's."""
    after = upgraded()
    stateful = after["StatefulSet/one"]
    named = stateful if rename == "StatefulSet" else stateful["spec"]["volumeClaimTemplates"][0]
    named["metadata"]["name"] = "two"
    found = changes.unlisted(changes.of_objects(INSTALLED, after.values()), ["StatefulSet/one"])
    assert "PersistentVolumeClaim/data-one-0" in {change.where for change in found}


def test_a_value_that_is_gone_is_found_by_its_branch() -> None:
    """A renamed key by its path, a removed part by its top; listed, they pass."""
    before = changes.paths({"worker": {"pollSeconds": 1, "replicas": 1}, "cache": {"size": 1, "host": ""}})
    after = changes.paths({"worker": {"querySeconds": 1, "replicas": 1}})
    found = changes.of_values(before, after)
    assert [change.where for change in found] == ["cache", "worker.pollSeconds"]
    assert changes.unlisted(found, ["cache", "worker.pollSeconds"]) == []


SCHEMA = {
    "properties": {
        "worker": {"properties": {"replicas": {"type": "integer"}, "old": {"deprecated": True}}},
        "pipelines": {"items": {"properties": {"name": {}, "schedules": {"items": {"$ref": "#/$defs/schedule"}}}}},
        "labels": {"additionalProperties": {"type": "string"}},
    },
    "$defs": {"schedule": {"properties": {"cron": {}}}},
}


def test_a_schema_names_values_within_lists() -> None:
    """Through references, without what is only there to be refused."""
    assert changes.schema_paths(SCHEMA) == {
        "worker",
        "worker.replicas",
        "pipelines",
        "pipelines[].name",
        "pipelines[].schedules",
        "pipelines[].schedules[].cron",
        "labels",
    }
    gone = changes.of_values(changes.schema_paths(SCHEMA), {"worker", "worker.replicas", "labels"})
    assert [change.where for change in gone] == ["pipelines"]


def test_values_are_cut_to_what_a_schema_knows() -> None:
    """Unknown keys go at every level, also in lists; an open map stays as it is."""
    values = {
        "worker": {"replicas": 2, "new": True},
        "pipelines": [{"name": "etl", "image": "x", "schedules": [{"cron": "0 9 * * *", "new": 1}]}],
        "labels": {"team": "data"},
        "new": {},
    }
    assert changes.known(values, SCHEMA) == {
        "worker": {"replicas": 2},
        "pipelines": [{"name": "etl", "schedules": [{"cron": "0 9 * * *"}]}],
        "labels": {"team": "data"},
    }
