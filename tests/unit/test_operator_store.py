"""The operator's picture of the cluster, whatever the order in which it hears of things."""

from typing import Any

import pytest

from esft_operator.observe.store import Store

KEY = ("n", "run")


def resource(version: int, uid: str = "u1", **spec: Any) -> dict[str, Any]:
    metadata = {
        "namespace": "n",
        "name": "run",
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [],
    }
    return {"kind": "ESFineTune", "metadata": metadata, "spec": spec}


def child(kind: str, name: str, uid: str = "u1") -> dict[str, Any]:
    labels = {"app.kubernetes.io/instance": "run", "esfinetune.dev/run-uid": uid}
    metadata = {
        "namespace": "n",
        "name": name,
        "uid": f"{name}-uid",
        "labels": labels,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"kind": kind, "metadata": metadata, "spec": {}, "data": {"a": "b"}}


def test_an_older_answer_does_not_replace_a_newer_one() -> None:
    store = Store()
    assert store.put_resource(resource(9, suspend=True))
    assert not store.put_resource(resource(9))
    assert not store.put_resource(resource(8))
    found = store.resource(KEY)
    assert found is not None
    assert found["spec"] == {"suspend": True}
    assert "managedFields" not in found["metadata"]
    assert store.put_resource(resource(10))


def test_a_deletion_of_a_predecessor_does_not_touch_its_successor() -> None:
    store = Store()
    store.put_resource(resource(1))
    store.put_resource(resource(5, uid="u2"))
    assert not store.drop_resource(KEY, "u1")
    assert store.keys() == [KEY]
    assert store.drop_resource(KEY, "u2")
    assert store.keys() == []


@pytest.mark.parametrize("kind", ["Job", "ConfigMap", "PersistentVolumeClaim"])
def test_a_child_comes_and_goes(kind: str) -> None:
    store = Store()
    store.put_resource(resource(1))
    assert store.saw_child("ADDED", child(kind, "x")) == KEY
    seen = store.observed(KEY, "u1")
    assert sum(each is not None for each in (seen.job, seen.config_map, seen.volume_claim)) == 1
    store.saw_child("DELETED", child(kind, "x"))
    seen = store.observed(KEY, "u1")
    assert (seen.job, seen.config_map, seen.volume_claim) == (None, None, None)


def test_pods_of_another_uid_are_not_ours() -> None:
    store = Store()
    store.saw_child(None, child("Pod", "old", uid="u0"))
    store.saw_child(None, child("Pod", "new"))
    assert [pod.name for pod in store.observed(KEY, "u1").pods] == ["new"]


def test_what_the_api_server_says_replaces_what_watches_said() -> None:
    store = Store()
    store.saw_child(None, child("Pod", "vanished"))
    store.saw_child(None, child("Job", "vanished too"))
    store.put_children(KEY, "u1", [child("Pod", "there")])
    seen = store.observed(KEY, "u1")
    assert [pod.name for pod in seen.pods] == ["there"]
    assert seen.job is None


def test_an_object_without_our_labels_is_passed_over() -> None:
    stranger = child("Pod", "x")
    stranger["metadata"]["labels"] = {"app": "other"}
    assert Store().saw_child(None, stranger) is None
