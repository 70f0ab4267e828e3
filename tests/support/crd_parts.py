"""The kind ESFineTune in a cluster of the tests, and runs of it as the API server shows them."""

import copy
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
import yaml
from kubernetes import client

from crd import MANIFEST, ROOT
from esft.spec import ESFineTuneSpec
from esft_operator.crd.definition import GROUP, VERSION
from esft_operator.kinds import RUNS
from esft_operator.resource import without_nulls
from kube_parts import wait_until

Spec = dict[str, Any]

MINIMAL: Spec = {
    "model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"},
    "task": {"name": "countdown", "train": {"size": 200}},
}


def install_crd(api: client.ApiClient) -> None:
    """Make manifests/crd.yaml the cluster's, and wait until the API server serves it."""
    manifest = yaml.safe_load((ROOT / MANIFEST).read_text(encoding="utf-8"))
    name = manifest["metadata"]["name"]
    extensions = client.ApiextensionsV1Api(api)
    try:
        extensions.create_custom_resource_definition(manifest)
    except client.ApiException as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        present = extensions.read_custom_resource_definition(name)
        manifest["metadata"]["resourceVersion"] = present.metadata.resource_version
        extensions.replace_custom_resource_definition(name, manifest)

    def established() -> bool:
        conditions = extensions.read_custom_resource_definition(name).status.conditions or ()
        return any(each.type == "Established" and each.status == "True" for each in conditions)

    def served() -> bool:
        try:
            client.CustomObjectsApi(api).list_cluster_custom_object(GROUP, VERSION, RUNS.plural, limit=1)
        except client.ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    wait_until(lambda: established() and served(), 30, f"{name} is served")


class Resources:
    """The runs of one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._place = (GROUP, VERSION, namespace, RUNS.plural)

    def create(self, spec: Spec, name: str = "run", **options: str) -> dict[str, Any]:
        return self._objects.create_namespaced_custom_object(
            *self._place, resource(spec, name), field_validation="Strict", **options
        )

    def replace(self, old: dict[str, Any], spec: Spec, **options: str) -> dict[str, Any]:
        name = old["metadata"]["name"]
        return self._objects.replace_namespaced_custom_object(
            *self._place, name, old | {"spec": spec}, field_validation="Strict", **options
        )

    def get(self, name: str = "run") -> dict[str, Any]:
        return self._objects.get_namespaced_custom_object(*self._place, name)

    def set_status(self, status: dict[str, Any], name: str = "run") -> dict[str, Any]:
        body = self.get(name) | {"status": status}
        return self._objects.replace_namespaced_custom_object_status(*self._place, name, body)

    def scale(self, name: str = "run") -> dict[str, Any]:
        return self._objects.get_namespaced_custom_object_scale(*self._place, name)

    def set_scale(self, replicas: int, name: str = "run") -> dict[str, Any]:
        body = {"spec": {"replicas": replicas}}
        return self._objects.patch_namespaced_custom_object_scale(*self._place, name, body)


def changed(changes: Spec, base: Spec = MINIMAL) -> Spec:
    """The base with fields (`evolution.sigma`) set to values; a value of ... takes the field away."""
    spec = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, name = path.split(".")
        holder = spec
        for parent in parents:
            holder = holder.setdefault(parent, {})
        if value is ...:
            holder.pop(name, None)
        else:
            holder[name] = value
    return spec


def resource(spec: Spec, name: str = "run") -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "ESFineTune",
        "metadata": {"name": name},
        "spec": spec,
    }


def causes(call: Callable[[], object]) -> dict[str, str]:
    """The fields that the API server refuses, with its words about each."""
    with pytest.raises(client.ApiException) as caught:
        call()
    assert caught.value.status == 422, caught.value.body
    return {each["field"]: each["message"] for each in json.loads(caught.value.body)["details"]["causes"]}


def pydantic_s(spec: Spec) -> Spec:
    return without_nulls(
        ESFineTuneSpec.model_validate(spec, by_alias=True, by_name=False).model_dump(mode="json")
    )
