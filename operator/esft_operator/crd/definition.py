"""The CustomResourceDefinition, made from the models of the spec and the status; hack/crd.py writes it down."""

from typing import Any

from esft.spec import API_VERSION, KIND, ESFineTuneSpec
from esft.status import ESFineTuneStatus
from esft_operator.crd.rules import add_rules
from esft_operator.crd.schema import Schema, structural_schema
from esft_operator.kinds import RUNS

GROUP, VERSION = API_VERSION.split("/")
REPLICAS = "spec.workers.replicas"

COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Generation", "string", ".status.progress.summary"),
    ("Fitness", "string", ".status.fitness.summary"),
    ("Score", "string", ".status.evaluation.summary"),
    ("Workers", "integer", ".status.workers.ready"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
WIDE_COLUMNS = (("Model", "string", ".spec.model.source"), ("Task", "string", ".spec.task.name"))


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _resource()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": f".{REPLICAS}",
                "statusReplicasPath": ".status.workers.ready",
                "labelSelectorPath": ".status.workers.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path} | priority
            for columns, priority in ((COLUMNS, {}), (WIDE_COLUMNS, {"priority": 1}))
            for name, kind, path in columns
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{RUNS.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": RUNS.plural,
                "singular": KIND.lower(),
                "shortNames": ["esft"],
                "categories": ["esfinetune"],
            },
            "versions": [version],
        },
    }


def _resource() -> Schema:
    texts = {"apiVersion": "Version of this schema.", "kind": "Kind of resource."}
    resource: Schema = {
        "type": "object",
        "description": "One fine-tuning run of a language model with Evolution Strategies.",
        "required": ["spec"],
        "properties": {name: {"type": "string", "description": text} for name, text in texts.items()}
        | {
            "metadata": {"type": "object"},
            # The API server takes no resource whose scale subresource would read a null.
            "spec": structural_schema(ESFineTuneSpec, "spec", lambda path: path != REPLICAS),
            "status": structural_schema(ESFineTuneStatus, "status", lambda _: False),
        },
    }
    add_rules(resource)
    return resource
